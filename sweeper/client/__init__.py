"""Client of a sweep service: sends sweeps, follows them and brings back what they found. Loads no torch and no ray."""

from sweeper.client.client import Client
from sweeper.client.transport import ClientError

__all__ = ["Client", "ClientError"]
