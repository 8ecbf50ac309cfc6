"""The evidence: is there an optimal noise, and does one noise explain the knobs? Statistics on the trials table."""
