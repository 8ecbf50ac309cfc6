"""Scheduler of the service: queue, processes, recovery."""
