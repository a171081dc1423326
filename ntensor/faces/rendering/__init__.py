"""Renders pictures from vertices, skin, pose and light."""
