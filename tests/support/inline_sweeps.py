"""Whole sweeps in this process on the closed form, for the tests of what a search is made of."""

from pathlib import Path
from typing import Any

import pytest

import sweeper
from sweeper import SweepSpec
from sweeper.storage.tables import read

PLAIN: dict[str, Any] = {"map": 0.0, "confirm": 0.0, "order": "free"}
"""Keys of a sweep without stages, whose proposals use all results so far."""


def sweep(run: Path, **more: Any) -> sweeper.Results:
    spec = {"space": "synthetic", "runner": "inline", "sampler": "random", "trials": 12, **more}
    return sweeper.run(SweepSpec(out=str(run), **spec))


def digests(results: sweeper.Results) -> list[str]:
    return results.trials["digest"].to_pylist()


def origins(run: Path) -> list[str | None]:
    return read(run, "search")["origin"].to_pylist()


def lose(run: Path, *numbers: int) -> None:
    """Delete the parts of some configurations, as a crash loses those in flight."""
    for row in read(run, "trials").to_pylist():
        if row["number"] in numbers:
            (run / "trials" / f"{row['digest']}.parquet").unlink()


def altered(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Let every trial's result go through `change(spec, result) -> result`."""
    from dataclasses import replace

    from sweeper.runner import jobs

    real = jobs.run_trials

    def run(specs: Any, *rest: Any) -> Any:
        outputs = real(specs, *rest)
        return [replace(o, result=change(s, o.result)) for s, o in zip(specs, outputs, strict=True)]

    monkeypatch.setattr(jobs, "run_trials", run)


def stop_after(monkeypatch: pytest.MonkeyPatch, jobs: int) -> None:
    """Interrupt the inline runner after so many jobs, as Ctrl-C does."""
    from sweeper.runner import inline

    real, seen = inline.execute, []

    def execute(*args: Any, **kwargs: Any) -> Any:
        if len(seen) == jobs:
            raise KeyboardInterrupt
        seen.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(inline, "execute", execute)
