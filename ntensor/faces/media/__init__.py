"""Reads, aligns and writes pictures, meshes and videos."""
