"""Proposers: they choose the next configuration of a sweep."""
