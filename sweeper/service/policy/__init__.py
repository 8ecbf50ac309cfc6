"""Rules of admission: limits, quotas, request bodies, space files."""
