"""Pictures, meshes and videos: read, aligned, laid out and written."""
