"""Cached views of results for readers."""
