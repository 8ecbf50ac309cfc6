"""The service: many sweeps of many users, one HTTP API over a cluster. Needs `sweeper[service]`."""
