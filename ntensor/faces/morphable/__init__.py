"""3D morphable face models: the interface, the built-in analytic face, the ICT face."""
