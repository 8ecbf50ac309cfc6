"""Progress of a sweep: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, TextIO, cast

from sweeper.runner.results import Status
from trainables.io.printable import PrintableStream, printable, printable_line

PLAIN_SECONDS = 10.0


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


class Progress:
    """Shows trials done, running and failed, the best so far, the current noise target and the time left.

    Args:
        objective: Name of the objective.
        stream: Where to write; stderr by default, so that results on stdout stay clean.
        quiet: Show nothing.
        counts: What is counted.
        running: Whether the number of running trials is known, and shown.
    """

    def __init__(
        self,
        objective: str,
        stream: TextIO | None = None,
        quiet: bool = False,
        counts: str = "configurations",
        running: bool = True,
    ) -> None:
        self.objective, self.quiet, self.counts, self.running = objective, quiet, counts, running
        self.safe = PrintableStream.of(stream or sys.stderr)
        self.stream = cast(TextIO, self.safe)
        self.bar: Any = None
        self.warned: set[str] = set()
        self.first_done: int | None = None
        self.last = -PLAIN_SECONDS

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, status: Status) -> None:
        """Show the status; a warning of a trial is shown once, when its kind first comes."""
        if self.quiet:
            return
        for key in [k for k in status.warnings if k not in self.warned]:
            self.warned.add(key)
            self.line(f"warning: {key}: {status.warnings[key]}")
        if self.first_done is None:
            self.first_done = status.done
        if self.stream.isatty():
            self._show_bar(status)
        elif time.monotonic() - self.last >= PLAIN_SECONDS or status.done + status.failed >= status.budget:
            self.last = time.monotonic()
            print(f"{status.done}/{status.budget} {self.counts}, {self._text(status)}", file=self.stream, flush=True)

    def line(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        if self.bar is not None:
            self.bar.write(printable(text), file=self.safe.raw)
        else:
            print(text, file=self.stream, flush=True)

    def _text(self, status: Status) -> str:
        parts = [f"{status.running} running"] if self.running else []
        parts += [f"{status.failed} failed"] if status.failed else []
        parts += [f"{status.pruned} pruned ({status.saved_seconds:.0f} s saved)"] if status.pruned else []
        parts += [f"best {self.objective} {_number(status.best)}", f"noise target {_number(status.target)}"]
        left = self._left(status)
        return ", ".join([*parts, f"{left} left"] if left else parts)

    def _left(self, status: Status) -> str:
        new = status.done - (self.first_done or 0)
        if not new or status.done >= status.budget:
            return ""
        seconds = (time.monotonic() - status.started) / new * (status.budget - status.done)
        return f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"

    def _show_bar(self, status: Status) -> None:
        from tqdm import tqdm

        if self.bar is None:
            shape = "{n_fmt}/{total_fmt} |{bar:20}| {desc}"
            self.bar = tqdm(total=status.budget, bar_format=shape, file=self.safe.raw, dynamic_ncols=True)
        self.bar.total, self.bar.n = status.budget, status.done
        self.bar.set_description_str(printable_line(self._text(status)), refresh=False)
        self.bar.refresh()
