"""What every benchmark says about itself: machine, versions, commit."""

import os
import platform
from importlib import metadata

from trainables.runtime import package_version


def provenance() -> str:
    """Return one line: processor count, versions and commit."""
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in ("torch", "ray", "optuna", "numpy"))
    _, commit = package_version()
    return f"CPU, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}, commit {commit or 'unknown'}"
