"""Merge methods and the coefficients over which they are scored."""
