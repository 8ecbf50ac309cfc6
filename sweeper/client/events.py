"""Server-sent events: parsed from an HTTP answer, and followed across lost connections."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from pydantic import ValidationError

from sweeper.client.encoding import at
from sweeper.client.models import ENDED, Event
from sweeper.client.transport import BACKOFF, ClientError, Transport

if TYPE_CHECKING:
    from requests import Response

AWAY_SECONDS, SILENT_SECONDS = 120.0, 45.0
"""How long a service may be unreachable, and a stream of events silent."""


def events_in(answer: Response) -> Iterator[Event | None]:
    """Yield the events of an answer as they arrive, and None for each comment that keeps the connection alive.

    An event of an unknown type yields None, too.
    """
    data: list[str] = []
    for line in _lines(_pieces(answer)):
        if line.startswith(":"):
            yield None
        elif line.startswith("data:"):
            data.append(line.removeprefix("data:").removeprefix(" "))
        elif not line and data:
            text, data = "\n".join(data), []
            try:
                yield Event.model_validate_json(text)
            except ValidationError:
                yield None


def follow(http: Transport, sweep: str | None, after: int | None, until: float | None = None) -> Iterator[Event | None]:
    """Yield events until a sweep ends, and None for each keep-alive or lost connection.

    Args:
        http: The service.
        sweep: The sweep's id; None follows all sweeps without end.
        after: Id of the last known event.
        until: Time of the monotonic clock at which to stop waiting in silence.

    Raises:
        ClientError: The service refuses the request, or was unreachable for two minutes.
    """
    path = "/v1/events" if sweep is None else f"{at(sweep)}/events"
    last, over, failures, since = after, False, 0, time.monotonic()
    while True:
        headers = {"Accept": "text/event-stream"} | ({} if last is None else {"Last-Event-ID": str(last)})
        silent = SILENT_SECONDS if until is None else min(SILENT_SECONDS, max(0.1, until - time.monotonic()))
        retry_after = 0.0
        try:
            with http.stream(path, silent, headers=headers) as answer:
                for event in events_in(answer):
                    failures, since = 0, time.monotonic()
                    if event is not None:
                        last = event.id
                        over = event.data.get("state") in ENDED if event.type == "state" else over
                    yield event
        except ClientError as error:
            if not over and (not error.passing or time.monotonic() - since > AWAY_SECONDS):
                raise
            retry_after = error.retry_after or 0.0
        # the history of a resumed sweep may hold an earlier end: the service closes the stream at the last one
        if over and sweep is not None:
            return
        failures += 1
        yield None
        time.sleep(BACKOFF.random_pause(failures) + retry_after)


def _pieces(answer: Response) -> Iterable[bytes]:
    # without chunks, larger reads would wait for the whole answer
    return answer.iter_content(None if getattr(answer.raw, "chunked", False) else 1)


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for piece in pieces:
        *complete, rest = (rest + piece).split(b"\n")
        for line in complete:
            yield line.rstrip(b"\r").decode(errors="replace")
