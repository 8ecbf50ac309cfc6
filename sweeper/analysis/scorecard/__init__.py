"""Scorecard: the verdict in one word, and the tests behind it with their outcomes."""
