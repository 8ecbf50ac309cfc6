"""A run as the dashboards see it: its settings and tables, from Parquet and sweep.yaml alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from sweeper.spec import SweepSpec


@dataclass(frozen=True, eq=False)
class Run:
    """One run folder, or several read as one, at one moment.

    Attributes:
        name: For people.
        place: Path or URI; several are joined by a space.
        settings: Contents of `sweep.yaml`; None where there is none.
        spec: The same as a checked spec; None where the settings are none.
        tables: Table name -> rows, as `sweeper.store.read` yields them; `trials` sorted as `read_trials` does. Of
            several runs `trials` has a further column `run`, and a trial that stands in two of them is there once.
        skipped: Sentences on files that were left out.
        running: Whether a process is running the sweep.
        version: Changes whenever the content does; what is computed from a run may be cached by (place, version).
    """

    name: str
    place: str
    settings: Mapping[str, Any] | None
    spec: SweepSpec | None
    tables: Mapping[str, pa.Table]
    skipped: tuple[str, ...] = ()
    running: bool = False
    version: str = field(default="0")

    @property
    def key(self) -> tuple[str, str]:
        """What identifies the content, for caches."""
        return self.place, self.version
