"""The page of `ntensor.faces.demo`: access control, temporary files, sessions and layout."""
