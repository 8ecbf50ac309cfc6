"""Webhooks: a signed POST to an allowed URL when a sweep is done or failed, repeated until it arrives.

The header `Sweeper-Signature: t=SECONDS,v1=HEX` holds the HMAC-SHA256 of `SECONDS.BODY` with the server's secret. The
receiver computes the same value, and refuses old times.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
import threading
import time
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
from sqlalchemy import Engine, Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from sweeper.backoff import Backoff
from sweeper.client.models import State, moment
from sweeper.config.plain_text import check_plain
from sweeper.errors import SpecError
from sweeper.net import clean_line, is_loopback, reason
from sweeper.service.db.sweeps import Entry
from sweeper.service.db.tables import deliveries, sweeps
from sweeper.service.policy.errors import forbidden

REPORTED = (State.DONE, State.FAILED)
TRIES = 12
BACKOFF = Backoff(5.0, 3600.0)
TIMEOUT = (5.0, 10.0)
AGAIN_SECONDS = 10.0
KEPT_SECONDS = 30 * 86400.0
_MISSED_SECONDS = 86400.0
_AT_ONCE = 20
_LOOK_SECONDS = 600.0
_log = logging.getLogger("sweeper.service")


def check_url(url: str, allowed: Sequence[str]) -> None:
    """Check the URL of a webhook.

    Args:
        url: The URL.
        allowed: Prefixes of allowed URLs: scheme, host, port, and whole parts of the path.

    Raises:
        SpecError: The URL is not https, nor http on this machine.
        RefusedError: No prefix allows the URL (403).
    """
    check_plain("a webhook", url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise SpecError(f"a webhook must be a URL, got {url[:200]!r}: {error}") from None
    if any(ord(c) <= 32 or ord(c) == 127 or c == "\\" for c in url) or not parts.hostname or "@" in parts.netloc:
        raise SpecError(f"a webhook must be a URL without credentials or blanks, got {url[:200]!r}")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname)):
        raise SpecError(f"a webhook must be an https URL, got {url[:200]!r}")
    if _has_dot_part(parts.path):
        raise SpecError(f"a webhook's path must be UTF-8 without the parts . and .., even encoded, got {url[:200]!r}")
    server = (parts.scheme, parts.hostname, port)
    for prefix in allowed:
        other = urlsplit(prefix)
        path = other.path.rstrip("/")
        same = server == (other.scheme, other.hostname, other.port)
        if same and (parts.path == path or parts.path.startswith(f"{path}/") or not path):
            return
    known = ", ".join(allowed) or "none (--webhook adds one)"
    raise forbidden(f"webhooks to {parts.scheme}://{parts.netloc} are not allowed; this server allows {known}")


def _has_dot_part(path: str) -> bool:
    """Whether a receiver may read a part of a path as `.` or `..`: encoded, after a backslash, before a semicolon.

    Bytes that are not UTF-8 count, too: a lenient decoder reads the overlong `%C0%AE` as a dot.
    """
    decoded, before = path, ""
    try:
        while decoded != before:
            decoded, before = unicodedata.normalize("NFKC", unquote(decoded, errors="strict")), decoded
    except UnicodeDecodeError:
        return True
    parts = (part.partition(";")[0].strip() for part in re.split(r"[/\\]", decoded))
    return any(part in (".", "..") for part in parts) or any(ord(c) < 32 or ord(c) == 127 for c in decoded)


def check_prefix(url: str) -> None:
    """Check a prefix of allowed URLs.

    Raises:
        SpecError: The prefix is not https, nor http on this machine, or has a query or fragment.
    """
    if "?" in url or "#" in url:
        raise SpecError(f"--webhook must be a URL prefix without ? and #, got {url!r}")
    check_url(url, [url])


def signature(secret: str, seconds: int, body: str) -> str:
    """Return the value of the signature header for a body sent at a time."""
    digest = hmac.new(secret.encode(), f"{seconds}.{body}".encode(), hashlib.sha256).hexdigest()
    return f"t={seconds},v1={digest}"


class Webhooks:
    """Sends webhooks until they arrive.

    Args:
        engine: The service's database.
        allowed: Prefixes of allowed URLs; see `check_url`.
        secret: Signs the bodies.
        clock: Returns seconds since 1970.
        outward: Removes the server's paths from a reason.
    """

    def __init__(
        self,
        engine: Engine,
        allowed: Sequence[str],
        secret: str,
        clock: Callable[[], float] = time.time,
        outward: Callable[[str], str] = str,
    ) -> None:
        self._outward = outward
        self.engine, self.allowed, self.secret, self.clock = engine, tuple(allowed), secret, clock
        self._awake, self._closing = threading.Event(), threading.Event()
        self._search_at = 0.0  # a periodic search finds ends that `add` could not store
        self._complete = False  # whether every end is delivered or stored for delivery
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def start(self) -> None:
        """Start to send, beginning with webhooks of an earlier server."""
        self._thread.start()

    def close(self) -> None:
        """Stop; the next server sends what is left."""
        self._closing.set()
        self._awake.set()
        if self._thread.is_alive():
            self._thread.join(sum(TIMEOUT) + 5)

    def add(self, entry: Entry) -> None:
        """Queue a webhook for a done or failed sweep that has one, once per end."""
        if entry.webhook is None or entry.state not in REPORTED:
            return
        name = hashlib.sha256(f"{entry.id}/{entry.state}/{entry.ended}".encode()).hexdigest()[:32]
        values = {
            "id": name,
            "sweep": entry.id,
            "url": entry.webhook,
            "body": _body(name, entry, self._outward(entry.reason)),
            "due": self.clock(),
        }
        try:
            with self.engine.begin() as connection:
                connection.execute(insert(deliveries).values(**values, tries=0, ended=None, error=""))
        except IntegrityError:
            return  # queued before
        except SQLAlchemyError as error:  # the sweep's end is stored, so a later search finds it
            _log.warning("webhook of %s: cannot store it yet: %s", entry.id, error)
            self._complete = False
            return
        self._awake.set()

    def send_due(self) -> float:
        """Send the webhooks that are due; returns the seconds until the next one, at most a minute."""
        now = self.clock()
        waiting = select(deliveries).where(deliveries.c.ended.is_(None)).order_by(deliveries.c.due).limit(_AT_ONCE)
        with self.engine.begin() as connection:
            connection.execute(delete(deliveries).where(deliveries.c.ended < now - KEPT_SECONDS))
            rows = connection.execute(waiting).all()
        for row in rows:
            if row.due > now or self._closing.is_set():
                return min(60.0, max(0.05, row.due - now))
            self._send(row)
        return 0.0 if len(rows) == _AT_ONCE else 60.0 if not rows else 1.0

    def _run(self) -> None:
        while not self._closing.is_set():
            self._awake.clear()
            try:
                if not self._complete or self.clock() >= self._search_at:
                    self._complete, self._search_at = True, self.clock() + _LOOK_SECONDS
                    self._add_missed()
                wait = self.send_due()
            except SQLAlchemyError as error:
                _log.warning("webhooks: %s", error)
                self._complete, wait = False, AGAIN_SECONDS
            if not self._closing.is_set():
                self._awake.wait(wait if self._complete else AGAIN_SECONDS)

    def _add_missed(self) -> None:
        # the server may have been killed, or the database failed, between the end and the webhook's row
        ended = select(sweeps).where(
            sweeps.c.webhook.is_not(None), sweeps.c.state.in_(REPORTED), sweeps.c.ended > self.clock() - _MISSED_SECONDS
        )
        with self.engine.connect() as connection:
            rows = connection.execute(ended).all()
        for row in rows:
            self.add(row)

    def _send(self, row: Row[Any]) -> None:
        error = self._post(row)
        tries, now = row.tries + 1, self.clock()
        over = now if not error or tries >= TRIES else None
        if error:
            _log.warning("webhook of %s to %s: %s%s", row.sweep, row.url, error, "; giving up" if over else "")
        changes = {"tries": tries, "error": error[:500], "ended": over, "due": now + BACKOFF.pause(tries)}
        with self.engine.begin() as connection:
            connection.execute(update(deliveries).where(deliveries.c.id == row.id).values(**changes))

    def _post(self, row: Row[Any]) -> str:
        """Post a webhook; returns why it did not arrive, empty if it did."""
        try:
            check_url(row.url, self.allowed)  # a server with other settings may have stored it
        except SpecError as error:
            return str(error)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "sweeper",
            "Sweeper-Delivery": row.id,
            "Sweeper-Signature": signature(self.secret, int(self.clock()), row.body),
        }
        try:
            # no redirects, and no password that a .netrc holds
            with requests.post(
                row.url, data=row.body.encode(), headers=headers, timeout=TIMEOUT, allow_redirects=False, stream=True,
                auth=lambda request: request,
            ) as response:  # fmt: skip
                return "" if 200 <= response.status_code < 300 else f"answered {response.status_code}"
        except requests.RequestException as error:
            return f"{type(error).__name__}: {clean_line(reason(error))}"


def _body(name: str, entry: Entry, reason: str) -> str:
    ended = moment(entry.ended).isoformat() if entry.ended else None
    sweep = {k: getattr(entry, k) for k in ("id", "name", "owner", "space", "state")} | {"reason": reason}
    return json.dumps({"id": name, "event": f"sweep.{entry.state}", "time": ended, "sweep": sweep})
