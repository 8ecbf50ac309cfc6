"""A run as the dashboards see it: its settings and tables, from Parquet and sweep.yaml alone."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from sweeper.config.spec import SweepSpec


@dataclass(frozen=True, eq=False)
class Run:
    """One run folder, or several read as one, at one moment.

    Attributes:
        name: For people.
        place: Path or URI; several are joined by a space.
        settings: Contents of `sweep.yaml`; None where there is none.
        spec: The same as a checked spec; None where the settings are none.
        tables: Table name -> rows, as `sweeper.storage.tables.read` yields them; `trials` sorted as `read_trials`
            does. Of several runs `trials` has a further column `run`, and a trial that stands in two of them is
            there once.
        skipped: Sentences on files that were left out.
        pooled: What to know of several runs that are read as one; empty for a single run.
        running: Whether a process is running the sweep.
        server: URL of the service that runs the sweep, as whoever asks reached it; empty for a folder.
        version: Changes whenever the content does; what is computed from a run may be cached by (place, version).
    """

    name: str
    place: str
    settings: Mapping[str, Any] | None
    spec: SweepSpec | None
    tables: Mapping[str, pa.Table]
    skipped: tuple[str, ...] = ()
    pooled: tuple[str, ...] = ()
    running: bool = False
    server: str = ""
    version: str = field(default="0")

    @property
    def called(self) -> str:
        """What a command calls it: its id at a service, else its place."""
        return self.name if self.server else shlex.quote(self.place)

    @property
    def flags(self) -> str:
        """Flags that lead a command to it, with a blank before; empty for a folder."""
        return f" --server {shlex.quote(self.server)}" if self.server else ""

    @property
    def key(self) -> tuple[str, str]:
        """What identifies the content, for caches."""
        return self.place, self.version
