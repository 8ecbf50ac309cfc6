"""Routes that stream events of sweeps as server-sent events."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from sweeper.client.models import ENDED, Event
from sweeper.service.api import examples
from sweeper.service.api.auth import Viewer, bucket, still_valid
from sweeper.service.api.dependencies import Api, ApiDependency, SweepId
from sweeper.service.api.problems import documented
from sweeper.service.db.sweeps import Entry, UnknownSweepError
from sweeper.service.db.users import User
from sweeper.service.policy.errors import RefusedError
from trainables.io.printable import printable

router = APIRouter(prefix="/v1", tags=["events"])
SSE = EventSourceResponse.media_type
KEEP_ALIVE_SECONDS = 15.0
_LOOK_SECONDS = 1.0  # how soon a stream notices that the server stops
_HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
_ONE = {
    "type": "object",
    "description": "One event; its data is JSON with the schema Event.",
    "properties": {name: {"type": "string"} for name in ("id", "event", "data")},
}
_STREAM = {
    "description": "A stream of `id`, `event` and `data`, the JSON of an Event; comments keep it alive.",
    "content": {SSE: {"schema": _ONE, "example": examples.EVENTS}},
}
_After = Annotated[int | None, Query(ge=0, lt=2**63, description="Start after the event with this id.")]
_LastId = Annotated[
    str | None,
    Header(alias="Last-Event-ID", pattern="^[0-9]{1,18}$", description="The same as `after`, sent by browsers."),
]


@router.get(
    "/sweeps/{sweep}/events",
    response_class=StreamingResponse,
    summary="Follow a sweep",
    responses={**documented(404), 200: _STREAM},
)
async def follow_sweep(
    request: Request,
    api: ApiDependency,
    user: Viewer,
    sweep: SweepId,
    after: _After = None,
    last_event_id: _LastId = None,
) -> Response:
    """Stream a sweep's present state and progress, then every event until it ends."""
    entry = await run_in_threadpool(api.visible_entry, user, sweep)
    last = int(last_event_id) if last_event_id else after
    return _Stream(request, api, _of_sweep(request, api, entry, api.service.hub.last if last is None else last))


@router.get(
    "/events",
    response_class=StreamingResponse,
    summary="Follow all sweeps",
    responses={**documented(), 200: _STREAM},
)
async def follow_all(
    request: Request, api: ApiDependency, user: Viewer, after: _After = None, last_event_id: _LastId = None
) -> Response:
    """Stream the events of all sweeps that the user may see, without end."""
    last = int(last_event_id) if last_event_id else after
    return _Stream(request, api, _of_all(request, api, user, api.service.hub.last if last is None else last))


class _Stream(EventSourceResponse):
    """A stream of events, counted while it is open.

    Raises:
        RefusedError: Too many streams are open (429).
    """

    def __init__(self, request: Request, api: Api, events: AsyncIterator[bytes]) -> None:
        self._streams, self._whose = api.streams, bucket(request, api.service.config.auth)
        for open_, limit, whose in (
            (self._streams[self._whose], api.limits.streams_each, "of your "),
            (self._streams.total(), api.limits.streams, ""),
        ):
            if open_ >= limit:
                text = f"{open_} {whose}event streams are open, which is the limit: poll, or close some"
                raise RefusedError(429, text, {"Retry-After": "30"})
        self._streams[self._whose] += 1
        super().__init__(events, headers=_HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._streams[self._whose] -= 1
            self._streams += Counter()  # drops those at 0


def encode(event: Event) -> bytes:
    """Return an event in the format of the stream."""
    return format_sse_event(id=str(event.id), event=event.type, data_str=printable(event.model_dump_json()))


async def _of_sweep(request: Request, api: Api, entry: Entry, last: int) -> AsyncIterator[bytes]:
    hub = api.service.hub
    entry = await run_in_threadpool(api.service.catalog.get, entry.id)
    now = await run_in_threadpool(api.service.views.sweep, entry)

    def current(kind: str, data: dict[str, object]) -> bytes:
        # with the client's last id: the events after it are still to come
        event = Event.model_validate(
            {"id": last, "sweep": entry.id, "type": kind, "time": datetime.now(UTC), "data": data}
        )
        return encode(event)

    state = current("state", {"state": now.state, "reason": now.reason})
    progress = current("progress", now.progress.model_dump(mode="json"))
    if now.state in ENDED:
        for event in hub.since(last, entry.id):
            if not _ends(event):
                yield encode(event)
        yield progress
        yield state
        return
    yield state
    yield progress
    async for event in _events(request, api, last, entry.id):
        if event is None:
            yield format_sse_event(comment="alive")
            continue
        yield encode(event)
        # an earlier end of a resumed sweep does not count
        if _ends(event) and not any(later.type == "state" for later in hub.since(event.id, entry.id)):
            return


async def _of_all(request: Request, api: Api, user: User, last: int) -> AsyncIterator[bytes]:
    visible: dict[str, bool] = {}

    def sees(sweep: str) -> bool:
        try:
            return user.sees(api.service.catalog.get(sweep))
        except UnknownSweepError:
            return False

    yield format_sse_event(comment="events")
    async for event in _events(request, api, last, None):
        if event is None:
            yield format_sse_event(comment="alive")
            continue
        if event.sweep not in visible:
            visible[event.sweep] = await run_in_threadpool(sees, event.sweep)
        if visible[event.sweep]:
            yield encode(event)


async def _events(
    request: Request, api: Api, last: int, sweep: str | None, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[Event | None]:
    """Yield events as they occur and None after a quiet time; stops with the server or when the token ends."""
    hub, quiet = api.service.hub, clock()
    while not api.closing.is_set():
        upto = hub.last
        events = hub.since(last, sweep)
        for event in events:
            yield event
        last = max([upto, *(e.id for e in events)])
        if events:
            quiet = clock()
        elif clock() - quiet >= KEEP_ALIVE_SECONDS:
            if not await still_valid(request):
                return
            yield None
            quiet = clock()
        await hub.wait(last, _LOOK_SECONDS)


def _ends(event: Event) -> bool:
    return event.type == "state" and event.data.get("state") in ENDED
