"""Trials whose children train in processes of their own."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from trainables.pair.processes import Follower
from trainables.pair.run import run_pair
from trainables.result import PairOutput, TrialResult
from trainables.runtime import Report, Runtime
from trainables.spec import PairSpec

TIMES = {"started", "finished", "seconds", "step_seconds", "duration_seconds", "device_seconds"}


class Here:
    """A peer in this process: what is begun is done at once."""

    def __init__(self, spec: PairSpec, runtime: Runtime, child: int) -> None:
        self.follower = Follower(spec, runtime, child)
        self.calls: list[str] = []

    def begin(self, name: str, *args: Any) -> None:
        self.calls.append(name)
        self.answer = getattr(self.follower, name)(*args)

    def end(self) -> Any:
        return self.answer


def apart(spec: PairSpec, runtime: Runtime, report: Report = lambda _: None) -> tuple[PairOutput, list[Here]]:
    others = [Here(spec, runtime, child) for child in range(1, spec.members)]
    return run_pair(spec, runtime, report, [[], *([peer] for peer in others)]), others


def numbers(output: PairOutput) -> dict[str, Any]:
    found = {f.name: getattr(output.result, f.name) for f in fields(TrialResult)}
    return {k: v for k, v in found.items() if k not in TIMES and "seconds" not in k}
