"""Server-sent events: out of an HTTP answer, and across lost connections."""

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
"""So long a followed service may be away, and a stream of events be without a sign of life."""


def events_in(answer: Response) -> Iterator[Event | None]:
    """Yield the events of an answer as they come, and None for each comment that keeps the connection alive.

    An event of a kind that this version does not know is left out.
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
    """Yield events until a sweep's end, and None at each sign of life or loss of the connection.

    Args:
        http: The service.
        sweep: The sweep's id; None takes all, which do not end.
        after: Id of the last event that is known.
        until: No silence is waited for beyond this moment of the monotonic clock.

    Raises:
        ClientError: The service refuses it, or was away for two minutes.
    """
    path = "/v1/events" if sweep is None else f"{at(sweep)}/events"
    last, over, failures, since = after, False, 0, time.monotonic()
    while True:
        headers = {"Accept": "text/event-stream"} | ({} if last is None else {"Last-Event-ID": str(last)})
        silent = SILENT_SECONDS if until is None else min(SILENT_SECONDS, max(0.1, until - time.monotonic()))
        asked = 0.0
        try:
            with http.opened(path, silent, headers=headers) as answer:
                for event in events_in(answer):
                    failures, since = 0, time.monotonic()
                    if event is not None:
                        last = event.id
                        over = event.data.get("state") in ENDED if event.type == "state" else over
                    yield event
        except ClientError as error:
            if not over and (not error.passing or time.monotonic() - since > AWAY_SECONDS):
                raise
            asked = error.retry_after or 0.0
        # an earlier end may stand in the history of a sweep that was resumed: the service closes at the last one
        if over and sweep is not None:
            return
        failures += 1
        yield None
        time.sleep(BACKOFF.random_pause(failures) + asked)


def _pieces(answer: Response) -> Iterable[bytes]:
    # what is not chunked would only come once all of it is there
    return answer.iter_content(None if getattr(answer.raw, "chunked", False) else 1)


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    held = b""
    for piece in pieces:
        *whole, held = (held + piece).split(b"\n")
        for line in whole:
            yield line.rstrip(b"\r").decode(errors="replace")
