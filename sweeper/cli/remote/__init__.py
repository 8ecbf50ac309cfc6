"""The commands when a service runs the sweep."""
