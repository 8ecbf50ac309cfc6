"""Limits: what one request, one spec and one user may ask of the service at most."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of the service.

    Attributes:
        body: Bytes of a request's body.
        spec: Bytes of a sweep's spec as JSON.
        yaml: Bytes of one as YAML, which takes longer to read.
        values: Values in a spec, with every alias of YAML written out.
        depth: Levels of a spec.
        trials: Trials of one sweep.
        workers: Trials at a time of one sweep, and processes that read its data; None is no limit.
        threads: torch threads of a trial.
        rate: Requests per second of one user, in the mean; 0 is no limit.
        burst: Requests of one user at once.
        expensive: Calls in flight of one user that read a spec, plan or analyse.
        streams: Open streams of events of all users.
        streams_each: Open streams of events of one user, or of one address where there are no users.
        connections: Open connections of all clients.
        connections_each: Open connections from one address, at most a quarter of all.
        header: Bytes of a request's header.
        header_seconds: A request's header is here after so long, and so is a TLS handshake done.
        body_seconds: A request's body is here after so long.
        write_seconds: A client that reads nothing of its answer for so long is cut off.
    """

    body: int = 1 << 20
    spec: int = 1 << 17
    yaml: int = 1 << 16
    values: int = 20_000
    depth: int = 20
    trials: int = 1_000_000
    workers: int | None = None
    threads: int = 64
    rate: float = 200.0
    burst: int = 400
    expensive: int = 4
    streams: int = 1000
    streams_each: int = 50
    connections: int = 2048
    connections_each: int = 256
    header: int = 1 << 16
    header_seconds: float = 10.0
    body_seconds: float = 60.0
    write_seconds: float = 30.0
