"""The static page."""
