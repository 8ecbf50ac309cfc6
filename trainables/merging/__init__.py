"""Merge methods and their scores over a grid of coefficients."""
