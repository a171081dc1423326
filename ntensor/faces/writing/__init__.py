"""Files that commands write, whole or not at all: data, grids of pictures, contact sheets."""
