"""Tables and sentences of the dashboards."""
