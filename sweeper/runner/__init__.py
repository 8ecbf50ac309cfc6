"""Runs sweeps: sessions, extensions, pruning, results."""
