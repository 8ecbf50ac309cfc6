"""Run folders, selections and records for the dashboards."""
