"""Checkpoints of a running trial: written atomically from time to time, read when the trial starts again.

A file holds tensors and plain values, never code. It continues a trial bit for bit, so it is valid only for the same
trials on the same kind of device, with the same threads, torch and layout of processes. Others are ignored.
"""

from __future__ import annotations

import pickle
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trainables import __version__
from trainables.datasets.cache import LostCheckpoint
from trainables.io.atomic import write_atomic
from trainables.runtime import Report, Runtime
from trainables.spec import PairSpec

if TYPE_CHECKING:
    from trainables.training.loop import Course

FORMAT = 4
EVERY_SECONDS = 60.0
"""Pause between two checkpoints without a given number of steps; short trials write none."""
SHARE = 0.02
"""Share of a trial's time that such checkpoints may take; slow writes make the pauses longer."""
FIRST_STRIDE = 10


def describe_conditions(specs: Sequence[PairSpec], runtime: Runtime, layout: str) -> dict[str, Any]:
    """Return the conditions that must be equal for a checkpoint to be valid."""
    return {
        "format": FORMAT,
        "version": __version__,
        "torch": str(torch.__version__),
        "trials": [s.digest for s in specs],
        "device": _kind(runtime.device),
        "threads": runtime.threads,
        "deterministic": runtime.deterministic,
        "measure": runtime.measure,
        "rungs": runtime.rungs,
        "layout": layout,
    }


def _kind(device: str) -> str:
    # models of GPUs round differently
    kind = torch.device(device).type
    return f"{kind} ({torch.cuda.get_device_name(device)})" if kind == "cuda" else kind


@dataclass
class Keeper:
    """Writer and reader of the checkpoint of one stack of trials.

    Attributes:
        path: Its file; None writes no checkpoints.
        facts: See `describe_conditions`.
        every: Optimizer steps of a child between two checkpoints; None is about a minute, 0 writes none.
        report: Receives each written file.
        clock: Returns seconds; tests replace it.
    """

    path: Path | None
    facts: Mapping[str, Any]
    every: int | None
    report: Report = lambda _: None
    clock: Callable[[], float] = time.monotonic
    _stride: int = FIRST_STRIDE
    _saved: float = field(init=False)
    _since: float = field(init=False)
    _pause: float = EVERY_SECONDS

    def __post_init__(self) -> None:
        if self.every == 0:
            self.path = None
        self._saved = self._since = self.clock()

    @property
    def stride(self) -> int | None:
        """Steps until training pauses for a checkpoint; None if it does not pause."""
        if self.path is None:
            return None
        return self.every or self._stride

    def note_pause(self, steps: int, state: Callable[[], Mapping[str, Any]]) -> None:
        """Write a checkpoint if one is due, after `steps` steps since the last pause."""
        if self.path is None:
            return
        now = self.clock()
        # aim the next pause at the time when a checkpoint is due
        pace = (now - self._since) / max(1, steps)
        self._stride = max(1, min(10 * self._stride, round(self._pause / max(pace, 1e-6))))
        if self.every or now - self._saved >= self._pause / 2:
            self.write(state())
            self._pause = max(EVERY_SECONDS, (self.clock() - now) / SHARE)
        self._since = self.clock()

    def write(self, state: Mapping[str, Any]) -> None:
        """Write the checkpoint atomically; warn if the write fails, and let the trial go on."""
        assert self.path is not None
        try:
            self._replace(state)
        except OSError as error:
            why = error.strerror or type(error).__name__
            warnings.warn(
                f"cannot write checkpoint {self.path}: {why}; the trial goes on", LostCheckpoint, stacklevel=2
            )
        else:
            self.report({"checkpoint": str(self.path)})
        self._saved = self.clock()

    def _replace(self, state: Mapping[str, Any]) -> None:
        assert self.path is not None
        content = BytesIO()
        torch.save({"facts": dict(self.facts), "state": dict(state)}, content)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path, content.getbuffer())

    def read(self) -> dict[str, Any] | None:
        """Return the state of the checkpoint, on the CPU; None without a valid checkpoint."""
        if self.path is None or not self.path.is_file():
            return None
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            other = [k for k, v in self.facts.items() if content["facts"].get(k) != v]
            if not other:
                return content["state"]
            why = f"belongs to another {other[0]}"
        except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
            why = f"cannot be read ({type(error).__name__})"
        except pickle.UnpicklingError:
            why = "cannot be read"
        warnings.warn(f"checkpoint {self.path} {why}; the trial starts anew", LostCheckpoint, stacklevel=2)
        return None


def make_keeper(
    specs: Sequence[PairSpec], runtime: Runtime, report: Report, layout: str = "", what: str = ""
) -> Keeper:
    """Return the keeper of the checkpoint of some trials, in the folder `runtime.checkpoints`."""
    folder = runtime.checkpoints
    path = Path(folder) / f"{specs[0].digest}{what}.ckpt" if folder else None
    return Keeper(path, describe_conditions(specs, runtime, layout), runtime.checkpoint_steps, report)


def train_with_pauses(targets: Sequence[tuple[Course, int]], keep: Keeper | None) -> Iterator[int]:
    """Train courses side by side, each to its target step or its end, with pauses when a checkpoint may be due.

    Yields:
        At each pause, the steps since the last pause.
    """
    while left := [(course, end) for course, end in targets if not course.children and course.done < end]:
        stride = keep.stride if keep else None
        stops = [(course, min(end, course.done + stride) if stride else end) for course, end in left]
        steps = max(stop - course.done for course, stop in stops)
        for course, stop in stops:
            course.begin(stop)
        for course, stop in stops:
            course.advance(stop)
        yield steps
