"""Tables of the service: sweeps, users, usage, audit."""
