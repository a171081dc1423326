"""Training of the face models: the loop, its processes, its log."""
