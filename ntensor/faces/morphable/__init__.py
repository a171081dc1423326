"""Three-dimensional face models: the interface, the built-in analytic face, the ICT face."""
