"""A run as the dashboards see it: settings and tables, from Parquet and sweep.yaml alone."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from sweeper.config.spec import SweepSpec


@dataclass(frozen=True, eq=False)
class Run:
    """A run folder at one moment, or several read as one.

    Attributes:
        name: Display name.
        place: Path or URI; several are separated by blanks.
        settings: Contents of `sweep.yaml`; None without the file.
        spec: The settings as a validated spec; None without valid settings.
        tables: Table name -> rows, as `sweeper.storage.tables.read` yields them; `trials` sorted as by `read_trials`.
            With several runs, `trials` has the column `run`, and a trial of two runs appears once.
        skipped: Sentences on files that could not be read.
        pooled: Sentences on several runs that are read as one; empty for a single run.
        running: Whether a process runs the sweep.
        server: URL of the service that runs the sweep, as the user reached it; empty for a folder.
        specs: Name of a pooled run -> its spec, if valid; empty for a single run.
        version: Text that changes with the content; (place, version) is a cache key.
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
    specs: Mapping[str, SweepSpec] = field(default_factory=dict)
    version: str = field(default="0")

    @property
    def called(self) -> str:
        """The run in a command: its id at a service, else its place."""
        return self.name if self.server else shlex.quote(self.place)

    @property
    def flags(self) -> str:
        """Flags of a command for this run, with a leading blank; empty for a folder."""
        return f" --server {shlex.quote(self.server)}" if self.server else ""

    @property
    def key(self) -> tuple[str, str]:
        """Cache key of the content."""
        return self.place, self.version
