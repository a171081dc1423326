"""The library behind the interfaces of others, one module a neighbour."""
