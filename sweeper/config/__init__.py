"""The spec of a sweep and what it is read from."""
