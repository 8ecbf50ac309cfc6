"""What every benchmark says about itself: machine, versions, commit."""

import os
import platform
from importlib import metadata

import torch

from trainables.runtime import package_version


def provenance() -> str:
    """Return one line: device, processor count, versions and commit."""
    versions = ", ".join(f"{p} {_version(p)}" for p in ("torch", "ray", "optuna", "numpy"))
    _, commit = package_version()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    machine = f"{device}, {os.cpu_count()} cores, Python {platform.python_version()}"
    return f"{machine}, {versions}, commit {commit or 'unknown'}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # a machine that only trains
        return "none"
