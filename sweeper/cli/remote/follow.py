"""Live progress and exit code of a sweep on a service, like those of a local run."""

from __future__ import annotations

import sys
import time

from sweeper.cli.progress import Progress
from sweeper.client import Client
from sweeper.client.models import Event, State, Sweep, SweepDetail
from sweeper.config.spec import SweepSpec
from sweeper.errors import ExitCode
from sweeper.runner.status import Status

_COUNTS = ("budget", "done", "failed", "repeats")


class EventPrinter:
    """Shows the events of a sweep as a progress bar or plain lines.

    Args:
        sweep: The sweep's present record.
        progress: The display.
    """

    def __init__(self, sweep: Sweep, progress: Progress) -> None:
        self._progress, self._state, self._message = progress, sweep.state, sweep.regime and sweep.regime.message
        self._status = Status(**{key: getattr(sweep.progress, key) for key in _COUNTS})
        self._status.best = sweep.best.value if sweep.best else None
        self._say(sweep.state, sweep.reason, sweep.position)
        for warning in sweep.warnings:
            progress.line(f"warning: {warning}")

    def __call__(self, event: Event) -> None:
        """Show an event."""
        data = event.data
        if event.type == "state" and data.get("state") != self._state:
            self._state = data.get("state", self._state)
            self._say(self._state, data.get("reason", ""))
        elif event.type == "verdict" and (message := data.get("message")) != self._message:
            self._message = message
            if data.get("optimum") is not None:
                self._progress.line(f"{message}".partition("; ")[0].partition(". ")[0])
        elif event.type == "progress":
            for key in _COUNTS:
                setattr(self._status, key, data.get(key, getattr(self._status, key)))
            self._status.pace.note_count(time.monotonic(), self._status.done + self._status.failed)
            self._status.stage = data.get("stage") or ""
            self._progress(self._status)
        elif event.type == "target":
            self._status.target = data.get("target")
        elif event.type == "best":
            self._status.best = data.get("value")

    def _say(self, state: str, reason: str, position: int | None = None) -> None:
        place = f", position {position} in the queue" if position else ""
        self._progress.line(f"{state}{place}{f': {reason}' if reason else ''}")


def follow(client: Client, sweep: SweepDetail, server_flags: str) -> SweepDetail | None:
    """Show a sweep until it ends.

    Args:
        client: The service.
        sweep: The sweep.
        server_flags: Flags that select the service, for the hint after Ctrl-C.

    Returns:
        The ended sweep; None after Ctrl-C.
    """
    try:
        with Progress(sweep.objective, running=False, best="best") as progress:
            return client.wait(sweep.id, listener=EventPrinter(sweep, progress))
    except KeyboardInterrupt:
        name = f"{sweep.id}{server_flags}"
        print(
            f"detached; sweep {sweep.id} continues: `sweeper status {name} --follow` follows it, "
            f"`sweeper stop {name}` stops it",
            file=sys.stderr,
        )
        return None


def exit_code(sweep: SweepDetail) -> int:
    """Return the exit code that a local run with this end would have."""
    if sweep.state == State.DONE:
        return ExitCode.DONE
    if sweep.state != State.FAILED:
        return ExitCode.INTERRUPTED
    max_failed = sweep.spec.get("max_failed", SweepSpec.model_fields["max_failed"].default)
    progress = sweep.progress
    unsuccessful = progress.trials > 0 and not progress.outcomes.get("ok")
    return ExitCode.NO_SUCCESS if unsuccessful or progress.failed >= max_failed else ExitCode.ERROR
