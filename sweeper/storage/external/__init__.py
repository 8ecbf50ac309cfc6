"""Imports of tables with trials that other programs trained."""
