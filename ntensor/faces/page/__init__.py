"""The page of `ntensor.faces.demo`: who may ask, what is kept and for how long, how it looks."""
