"""Client of a sweep service: submits sweeps, follows them and reads their results, without torch and ray."""

from sweeper.client.client import Client
from sweeper.client.transport import ClientError

__all__ = ["Client", "ClientError"]
