"""Sweeps on Ray Tune or in this process: search, storage, analysis, service and command line.

This import loads nothing heavy; Python loads the names below when a program uses them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trainables import __version__

if TYPE_CHECKING:
    from sweeper.config.spec import SweepSpec
    from sweeper.errors import SpecError
    from sweeper.runner.results.results import Results, load_results
    from sweeper.runner.run import run
    from sweeper.search.k_aug import KAug
    from sweeper.search.noise_sampler.sampler import NoiseTargetedSampler

_HOME = {
    "KAug": "search.k_aug",
    "NoiseTargetedSampler": "search.noise_sampler.sampler",
    "Results": "runner.results.results",
    "SpecError": "errors",
    "SweepSpec": "config.spec",
    "load_results": "runner.results.results",
    "run": "runner.run",
}

__all__ = ["KAug", "NoiseTargetedSampler", "Results", "SpecError", "SweepSpec", "__version__", "load_results", "run"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
