"""Command that a cluster runs for a sweep."""

from __future__ import annotations

import shlex

from sweeper.deploy.bundle import Carried
from sweeper.storage.run_folder import SPEC_FILE

STOP_SECONDS = 60
"""So long a driver that is asked to stop may take to finish what it writes, before Ray kills it."""


STOPPABLE = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}


def command_of(found: Carried, python: str, file: str = SPEC_FILE) -> str:
    """Return the shell command that runs a sweep, or continues it."""
    return f"{shlex.quote(python)} -m sweeper run {shlex.quote(file)} --out {shlex.quote(found.out)} --yes"
