"""Limits: upper bounds of one request, one spec and one user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_FIELDS = {
    "members": 64, "epochs": 10_000, "steps": 10_000_000, "branch_step": 10_000_000, "batch_size": 65_536,
    "base.steps": 10_000_000, "base.batch_size": 65_536,
}  # fmt: skip
# options of this package's networks and texts, of timm's and of torchvision's
_OPTIONS = {
    "width": 1024, "widths": 4096, "dim": 4096, "embed_dim": 4096, "depth": 256, "heads": 256, "num_heads": 256,
    "patch": 1024,
    "mlp_ratio": 64, "layers": 256, "context": 65_536, "r": 4096, "size": 1024, "img_size": 1024, "image_size": 1024,
    "channels": 64,
}  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """Bounds of the service.

    Attributes:
        body: Bytes of a request's body.
        spec: Bytes of a sweep's spec as JSON.
        yaml: Bytes of a sweep's spec as YAML, which takes longer to parse.
        values: Values in a spec, after expansion of YAML aliases.
        depth: Nesting levels of a spec.
        trials: Trials of one sweep.
        workers: Parallel trials of one sweep, and processes that read its data; None is no limit.
        threads: torch threads of a trial.
        loaders: Processes that read the data of a trial.
        plane: Points per side of a loss plane.
        measure: Gradient measurements per child.
        fields: Largest value of a trial's numbers, by name; `base.steps` is an entry of a field.
        options: Largest value of numbers in options of models, data sets and adapters, by name.
        option: Largest value of the other numbers in these options.
        rate: Mean requests per second of one user; 0 is no limit.
        burst: Requests that one user may send at once.
        expensive: Concurrent calls of one user that parse a spec, plan or analyse.
        streams: Open event streams of all users.
        streams_each: Open event streams of one user, or of one address if the service has no users.
        connections: Open connections of all clients.
        connections_each: Open connections from one address, at most a quarter of all.
        header: Bytes of a request's header.
        header_seconds: Deadline of a request's header, and of a TLS handshake.
        body_seconds: Deadline of a request's body.
        write_seconds: Longest pause of a client while it reads a response; then the server disconnects it.
    """

    body: int = 1 << 20
    spec: int = 1 << 17
    yaml: int = 1 << 16
    values: int = 20_000
    depth: int = 20
    trials: int = 1_000_000
    workers: int | None = None
    threads: int = 64
    loaders: int = 32
    plane: int = 101
    measure: int = 10_000
    fields: Mapping[str, int] = field(default_factory=lambda: _FIELDS)
    options: Mapping[str, int] = field(default_factory=lambda: _OPTIONS)
    option: int = 1_000_000
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
