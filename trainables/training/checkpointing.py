"""Checkpoints of a trial on its way: written as a whole now and then, read by the same trial when it starts again.

A file holds tensors and plain values, never code. It counts for the same trials on the same kind of device, with the
same threads, torch and layout of processes only, because it continues them bit for bit; any other is passed over.
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

FORMAT = 2
EVERY_SECONDS = 60.0
"""Pause between two checkpoints where no number of steps is asked for: a trial of seconds writes none."""
SHARE = 0.02
"""Share of a trial's time that such checkpoints may take: where one is slow to write, the pauses are longer."""
FIRST_STRIDE = 10


def facts(specs: Sequence[PairSpec], runtime: Runtime, layout: str) -> dict[str, Any]:
    """Return what must be the same for a checkpoint to count."""
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
    # one model of GPU rounds otherwise than another
    kind = torch.device(device).type
    return f"{kind} ({torch.cuda.get_device_name(device)})" if kind == "cuda" else kind


@dataclass
class Keeper:
    """Writes and reads the checkpoint of the trials of one stack.

    Attributes:
        path: Its file; None keeps nothing.
        facts: See `facts`.
        every: Optimizer steps of a child between two checkpoints; None is about a minute's, 0 writes none.
        report: Told of each file that was written.
        clock: Seconds; for tests.
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
        """Steps until training pauses for a checkpoint; None where it need not pause."""
        if self.path is None:
            return None
        return self.every or self._stride

    def paused(self, steps: int, state: Callable[[], Mapping[str, Any]]) -> None:
        """Write a checkpoint if it is time for one, after `steps` steps since the last pause."""
        if self.path is None:
            return
        now = self.clock()
        # the next pause comes when a checkpoint is due, as far as one can tell
        pace = (now - self._since) / max(1, steps)
        self._stride = max(1, min(10 * self._stride, round(self._pause / max(pace, 1e-6))))
        if self.every or now - self._saved >= self._pause / 2:
            self.write(state())
            self._pause = max(EVERY_SECONDS, (self.clock() - now) / SHARE)
        self._since = self.clock()

    def write(self, state: Mapping[str, Any]) -> None:
        """Write the checkpoint, as a whole; one that cannot be written is no reason to end the trial."""
        assert self.path is not None
        try:
            self._replace(state)
        except OSError as error:
            why = error.strerror or type(error).__name__
            warnings.warn(
                f"checkpoint {self.path} cannot be written: {why}; the trial goes on", LostCheckpoint, stacklevel=2
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
        """Return the state of the checkpoint that is there, on the CPU; None where there is none that counts."""
        if self.path is None or not self.path.is_file():
            return None
        try:
            found = torch.load(self.path, map_location="cpu", weights_only=True)
            other = [k for k, v in self.facts.items() if found["facts"].get(k) != v]
            if not other:
                return found["state"]
            why = f"it is of another {other[0]}"
        except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
            why = f"it cannot be read ({type(error).__name__})"
        except pickle.UnpicklingError:
            why = "it cannot be read"
        warnings.warn(f"checkpoint {self.path}: {why}; the trial starts anew", LostCheckpoint, stacklevel=2)
        return None


def keeper(specs: Sequence[PairSpec], runtime: Runtime, report: Report, layout: str = "", what: str = "") -> Keeper:
    """Return what keeps the checkpoint of some trials, in `runtime.checkpoints`."""
    folder = runtime.checkpoints
    path = Path(folder) / f"{specs[0].digest}{what}.ckpt" if folder else None
    return Keeper(path, facts(specs, runtime, layout), runtime.checkpoint_steps, report)


def strides(ways: Sequence[tuple[Course, int]], keep: Keeper | None) -> Iterator[int]:
    """Train courses side by side to the steps beside them, or to their end, with pauses where a checkpoint may be due.

    Yields:
        Steps since the last pause, at each of them.
    """
    while left := [(course, end) for course, end in ways if not course.children and course.done < end]:
        stride = keep.stride if keep else None
        stops = [(course, min(end, course.done + stride) if stride else end) for course, end in left]
        steps = max(stop - course.done for course, stop in stops)
        for course, stop in stops:
            course.begin(stop)
        for course, stop in stops:
            course.advance(stop)
        yield steps
