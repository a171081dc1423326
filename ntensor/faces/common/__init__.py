"""Shared by all of `ntensor.faces`: errors, optional packages, start and end of a command."""
