"""Rows that the dashboards read."""
