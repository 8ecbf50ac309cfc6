"""The inline runner: one trial at a time in this process, without Ray."""

from __future__ import annotations

from .jobs import execute
from .session import Session


def run_inline(session: Session) -> None:
    """Run a session to its end.

    Raises:
        KeyboardInterrupt: The user stopped it; finished trials are on disk.
        OSError: The run folder cannot be written to.
    """
    while job := session.next_job():
        session.finish(job, execute(job, session.runtime, session.run))
