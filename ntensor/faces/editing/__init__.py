"""Editing of faces by their codes."""
