"""Writes files, each complete or not at all: data, grids of pictures, contact sheets."""
