"""Inline runner: one trial at a time in this process, without Ray."""

from __future__ import annotations

from collections.abc import Mapping

from sweeper.runner.jobs import Job, execute
from sweeper.runner.session import Session
from trainables.runtime import Report, Stop


def run_inline(session: Session) -> None:
    """Run a session to its end.

    Raises:
        KeyboardInterrupt: The user stopped the session; finished trials are on disk.
        StorageError: The run folder cannot be written to.
    """
    while job := session.next_job():
        session.finish(job, execute(job, session.runtime, session.run, _make_report(session, job)))
    if session.broken:
        raise session.broken


def _make_report(session: Session, job: Job) -> Report:
    def report(record: Mapping[str, object]) -> None:
        if reason := session.look(job, record):
            raise Stop(reason)

    return report
