"""Shell command with which a cluster runs a sweep."""

from __future__ import annotations

import shlex

from sweeper.deploy.bundle import Bundle
from sweeper.storage.run_folder import SPEC_FILE

STOP_SECONDS = 60
"""Time for a stopped driver to finish its writes, before Ray kills it."""


STOP_VARIABLES = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}


def sweep_command(bundle: Bundle, python: str, file: str = SPEC_FILE) -> str:
    """Return the shell command that runs or continues a sweep."""
    return f"{shlex.quote(python)} -m sweeper run {shlex.quote(file)} --out {shlex.quote(bundle.out)} --yes"
