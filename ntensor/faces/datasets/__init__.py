"""Where samples come from: generated scenes, and data sets on the disk."""
