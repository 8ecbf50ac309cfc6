"""Progress of a sweep: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, TextIO, cast

from sweeper.formatting import pluralize
from sweeper.runner.status import Status
from trainables.io.printable import PrintableStream, printable, printable_line

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

PLAIN_SECONDS = 10.0


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


class Progress:
    """Shows the trials done, running and failed, the stage, the best value, the noise target and the time left.

    Args:
        objective: Name of the objective.
        stream: Stream to write to; the default stderr keeps stdout for results.
        quiet: Show nothing.
        counts: Noun for what the bar counts.
        running: Show the number of running trials.
        best: Words before the best value: a running sweep knows observed means only, a service the posterior's winner.
    """

    def __init__(
        self,
        objective: str,
        stream: TextIO | None = None,
        quiet: bool = False,
        counts: str = "trials",
        running: bool = True,
        best: str = "best observed",
    ) -> None:
        self.objective, self.quiet, self.counts, self.running, self.best = objective, quiet, counts, running, best
        self.safe = PrintableStream.of(stream or sys.stderr)
        self.stream = cast(TextIO, self.safe)
        self.bar: RichProgress | None = None
        self.warned: set[str] = set()
        self.last = -PLAIN_SECONDS

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, status: Status) -> None:
        """Show the status, and each kind of warning once."""
        if self.quiet:
            return
        for key in [k for k in status.warnings if k not in self.warned]:
            self.warned.add(key)
            self.line(f"warning: {key}: {status.warnings[key]}")
        if self.stream.isatty():
            self._show_bar(status)
        elif time.monotonic() - self.last >= PLAIN_SECONDS or status.done + status.failed >= status.budget:
            self.last = time.monotonic()
            done, budget = status.done * status.repeats, status.budget * status.repeats
            print(f"{done}/{budget} {self.counts}, {self._text(status)}", file=self.stream, flush=True)

    def line(self, text: str) -> None:
        """Print a line, above the bar if one is shown."""
        if self.bar is None:
            print(text, file=self.stream, flush=True)
        else:
            self.bar.console.print(printable(text), soft_wrap=True)

    def _text(self, status: Status) -> str:
        parts = [self._stage(status)] if status.stage else []
        parts += [self._running(status)] if self.running else []
        parts += [f"{status.failed * status.repeats} failed"] if status.failed else []
        parts += [f"{status.pruned} pruned ({status.saved_seconds:.0f} s saved)"] if status.pruned else []
        parts += [f"{self.best} {self.objective} {_number(status.best)}", f"noise target {_number(status.target)}"]
        left = self._left(status)
        return ", ".join([*parts, f"{left} left"] if left else parts)

    def _stage(self, status: Status) -> str:
        # a service does not tell the size of a stage
        if not status.stage_budget:
            return status.stage
        return f"{status.stage} {status.stage_done * status.repeats}/{status.stage_budget * status.repeats}"

    def _running(self, status: Status) -> str:
        text = f"{status.running * status.repeats} running"
        if status.workers is None:
            return text
        device = f" ({status.device})" if status.device else ""
        return f"{text} on {pluralize(status.workers, 'worker')}{device}"

    def _left(self, status: Status) -> str:
        seconds = status.seconds_left()
        if seconds is None:
            return ""
        return f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"

    def _show_bar(self, status: Status) -> None:
        done, budget = status.done * status.repeats, status.budget * status.repeats
        bar = self.bar = self.bar or _start_bar(self.safe.raw, budget)
        text = printable_line(self._text(status))
        bar.update(bar.task_ids[0], total=budget, completed=done, description=text, refresh=True)


def _start_bar(raw: TextIO, total: int) -> RichProgress:
    """Return a bar that is shown; it draws on the raw stream, so its callers escape what they show."""
    from rich import progress  # lazy, because it takes 0.1 s
    from rich.console import Console
    from rich.table import Column

    bar = progress.Progress(
        progress.TextColumn("{task.completed}/{task.total}", markup=False),
        progress.BarColumn(20),
        progress.TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
        console=Console(file=raw, markup=False, emoji=False, highlight=False),
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
        expand=True,
    )
    bar.add_task("", total=total)
    bar.start()
    return bar
