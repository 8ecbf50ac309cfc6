"""Dependencies of the routes: the service, access to sweeps, and conversion of records to responses."""

from __future__ import annotations

import json
import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Path, Request, Response
from pydantic import AfterValidator, BaseModel

from sweeper.client.models import Role
from sweeper.config.plain_text import plain_text
from sweeper.service.api.auth import bucket
from sweeper.service.api.metrics import Metrics
from sweeper.service.api.turns import Turns
from sweeper.service.db.audit import Audit
from sweeper.service.db.sweeps import Entry, UnknownSweepError
from sweeper.service.db.users import User
from sweeper.service.policy.admission import Rules
from sweeper.service.policy.errors import RefusedError, forbidden, reads_only
from sweeper.service.policy.limits import Limits
from sweeper.service.policy.quotas import Demand, check_quota
from sweeper.service.service import Service
from sweeper.service.views.estimates import Estimates
from trainables.io.printable import printable

T = TypeVar("T")


@dataclass
class Api:
    """The service with what its routes need.

    Attributes:
        service: The service.
        limits: Limits of a request.
        rules: Rules of admission.
        estimates: Estimates the cost of sweeps.
        audit: The audit log.
        metrics: Metrics for Prometheus.
        closing: Set when streams must end.
        streams: Number of open event streams per user or address.
        sending: Held between the check of a quota and its use.
        turns: Limits and runs expensive calls.
    """

    service: Service
    limits: Limits
    rules: Rules
    estimates: Estimates
    audit: Audit
    metrics: Metrics
    closing: threading.Event = field(default_factory=threading.Event)
    streams: Counter[str] = field(default_factory=Counter)
    sending: threading.Lock = field(default_factory=threading.Lock)
    turns: Turns = field(init=False)

    def __post_init__(self) -> None:
        self.turns = Turns(self.limits.expensive, self.closing)

    def visible_entry(self, user: User, sweep: str) -> Entry:
        """Return the row of a sweep that the user may see.

        Raises:
            UnknownSweepError: The sweep does not exist, or the user may not see it; the message is the same.
        """
        entry = self.service.catalog.get(sweep)
        if not user.sees(entry):
            raise UnknownSweepError.of(sweep)
        return entry

    def steerable_entry(self, user: User, sweep: str) -> Entry:
        """Return the row of a sweep that the user may change.

        Raises:
            UnknownSweepError: The sweep does not exist, or the user may not see it.
            RefusedError: The user may see but not change it (403).
        """
        entry = self.visible_entry(user, sweep)
        if user.steers(entry):
            return entry
        if user.role == Role.VIEWER:
            raise reads_only()
        raise forbidden(f"sweep {entry.id} belongs to {entry.owner}: you may see it, but not change it")

    async def turn(self, request: Request, call: Callable[..., T], *args: Any) -> T:
        """Run an expensive call when its user has a turn, and return its result; see `Turns.run`."""
        return await self.turns.run(bucket(request, self.service.config.auth), call, *args)

    def check_quota(self, user: User, entry: Entry | None, demand: Demand) -> None:
        """Check that the user's quota covers a demand; admins may exceed it for other users' sweeps.

        Raises:
            RefusedError: The quota does not cover it (429).
        """
        if entry is not None and user.admin and entry.owner != user.name:
            return
        check_quota(self.service.catalog, user.name, user.quota, demand)


async def _api(request: Request) -> Api:
    return request.app.state.api


ApiDependency = Annotated[Api, Depends(_api)]
"""The service of a request."""
SweepId = Annotated[
    str,
    Path(
        pattern="^[A-Za-z0-9_-]+$",
        max_length=80,
        description="Id of a sweep.",
        examples=["digits_cnn-1f2e3d4c5b"],
    ),
]
"""A sweep's id in a path."""

TEXT = (
    r"^[^\x00-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u2028-\u202e"
    r"\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb]*$"
)
"""Text without control and format characters, for OpenAPI."""
Plain = Annotated[str, AfterValidator(plain_text)]
"""Text that is stored and shown to other users, checked by the command line's rule."""


async def body_of(request: Request, limit: int) -> bytes:
    """Return the body of a request.

    Raises:
        RefusedError: The body is larger than the limit (413); the rest is not read.
    """
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise RefusedError(413, f"the body must have at most {limit} bytes", {"Connection": "close"})
    return bytes(body)


def answer(record: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a record as a JSON response, without a second validation."""
    return Response(printable(record.model_dump_json()), status, headers, "application/json")


def plain_json(value: Any) -> bytes:
    """Return a value as JSON; NaN and infinity become null, and other types text."""
    try:
        return json.dumps(value, allow_nan=False, default=_plain, separators=(",", ":")).encode()
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False, default=_plain, separators=(",", ":")).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
