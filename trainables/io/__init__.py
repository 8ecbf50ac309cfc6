"""Atomic writes, and text without control characters."""
