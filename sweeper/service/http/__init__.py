"""HTTP server of the service: connections, peers, large answers."""
