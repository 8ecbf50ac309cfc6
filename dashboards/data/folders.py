"""Run folders as they grow, and several runs read as one. Each file of a folder is read once."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute

from dashboards.data.runs import Run
from sweeper.config.spec import SweepSpec
from sweeper.errors import MissingFolderError, SpecError
from sweeper.formatting import pluralize
from sweeper.storage.incremental import IncrementalTable
from sweeper.storage.location import Place, place_of
from sweeper.storage.run_folder import SPEC_FILE, is_running, spec_of, stored_values
from sweeper.storage.schema import SCHEMAS, with_messages
from sweeper.storage.tables import read_parts, skipped

pc: Any = pyarrow.compute  # it creates its functions at import, which hides them from type checkers

_ORDER = [("number", "ascending"), ("repeat", "ascending")]


class _Tables(Mapping[str, pa.Table]):
    """Tables by name; missing ones load at first access."""

    def __init__(self, load: Callable[[str], pa.Table], **loaded: pa.Table) -> None:
        self._load, self._known = load, dict(loaded)

    def __getitem__(self, name: str) -> pa.Table:
        if name not in SCHEMAS:
            raise KeyError(name)
        if name not in self._known:
            self._known[name] = self._load(name)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(SCHEMAS)

    def __len__(self) -> int:
        return len(SCHEMAS)


class Folder:
    """A run folder that is read as it grows; thread-safe.

    Args:
        place: Path or URI.
        noise: Noise to show instead of the sweep's.
        redact: Removes from a message what the user may not read.
    """

    def __init__(self, place: str, noise: str | None = None, redact: Callable[[str], str] = str) -> None:
        self.place, self.text, self.noise, self.redact = place_of(place), place, noise, redact
        self._lock = threading.Lock()
        self._tables = {name: IncrementalTable(name) for name in ("trials", "search")}
        self._settings: tuple[str | None, Mapping[str, Any] | None, SweepSpec | None] = (None, None, None)
        self._run: Run | None = None

    def run(self) -> Run:
        """Return the current run; the same object as before if nothing changed.

        Raises:
            SpecError: The place cannot be reached, or is not a folder.
        """
        with self._lock:
            try:
                return self._refresh()
            except SpecError as error:
                raise type(error)(self.redact(str(error))) from None

    def _refresh(self) -> Run:
        changed = self._read_settings()
        for table in self._tables.values():
            changed |= table.refresh(self.place)
        if self._run is None and not self.place.exists():
            raise MissingFolderError(f"there is no folder {self.text}")
        running = is_running(self.place)
        if self._run is None or changed or running != self._run.running:
            self._run = self._make_run(running)
        return self._run

    def table(self, name: str) -> pa.Table:
        """Return a table, and read its new rows on every refresh from now on."""
        with self._lock:
            if name not in self._tables:
                table = IncrementalTable(name)
                table.refresh(self.place)
                # the current run already holds these rows
                table.changes = 0
                self._tables[name] = table
            return self._tables[name].rows

    def rows_of(self, name: str, digest: str) -> pa.Table:
        """Return the rows of one trial of a table, from the trial's file if it exists."""
        file = f"{self.place.path}/{name}/{digest}.parquet"
        if isinstance(part := read_parts(self.place, [file], name)[file], pa.Table):
            return part
        rows = self.table(name)
        return rows.filter(pc.equal(rows["digest"], digest))

    def _read_settings(self) -> bool:
        try:
            text = self.place.read_text(SPEC_FILE)
        except SpecError:
            text = None
        if text == self._settings[0]:
            return False
        settings = spec = None
        if text is not None:
            try:
                settings = stored_values(self.place, text)
                spec = spec_of(self.place, text)
            except SpecError:  # the views report missing settings
                pass
        if self.noise is not None:
            settings = {**(settings or {}), "noise": self.noise}
        self._settings = text, settings, spec
        return True

    def _make_run(self, running: bool) -> Run:
        trials = with_messages(self._tables["trials"].rows.sort_by(_ORDER), self.redact)
        marks = [f"{name}{t.changes}.{t.rows.num_rows}" for name, t in self._tables.items()]
        text = "\n".join([*marks, str(self._settings[0]), str(running)])
        return Run(
            name=self.place.name,
            place=self.place.text,
            settings=self._settings[1],
            spec=self._settings[2],
            tables=_Tables(self.table, trials=trials, search=self._tables["search"].rows),
            skipped=tuple(self.redact(skipped(p, why)) for t in self._tables.values() for p, why in t.skipped.items()),
            running=running,
            version=hashlib.sha256(text.encode()).hexdigest()[:16],
        )


class Live:
    """Run folders under unique names.

    Args:
        folders: Name -> folder; its content may change, and may depend on the user.
    """

    def __init__(self, folders: Mapping[str, Folder]) -> None:
        self.folders = folders
        self._joined: tuple[tuple[tuple[str, str], ...], Run] | None = None

    def run(self, names: Sequence[str]) -> Run:
        """Return a run, or several runs as one.

        Raises:
            SpecError: A place cannot be reached, or a name is unknown.
        """
        runs = self.runs(names)
        if len(runs) == 1:
            return next(iter(runs.values()))
        key = tuple(r.key for r in runs.values())
        cached = self._joined  # read once: another thread may replace it
        if cached is None or cached[0] != key:
            cached = self._joined = key, join_runs(runs)
        return cached[1]

    def runs(self, names: Sequence[str]) -> dict[str, Run]:
        """Return the runs by name.

        Raises:
            SpecError: As for `run`.
        """
        return {name: self._folder(name).run() for name in names}

    def rows_of(self, names: Sequence[str], table: str, digest: str) -> pa.Table:
        """Return the rows of one trial, from the first run that has them.

        Raises:
            SpecError: As for `run`.
        """
        parts = [self._folder(name).rows_of(table, digest) for name in names]
        return next((p for p in parts if p.num_rows), parts[0])

    def _folder(self, name: str) -> Folder:
        try:
            return self.folders[name]
        except KeyError:
            raise SpecError(f"there is no sweep {name!r}") from None


def open_folders(places: Sequence[str], noise: str | None = None) -> dict[str, Folder]:
    """Return the run folders at some places under unique names.

    Args:
        places: Paths or URIs.
        noise: Noise to show instead of the sweeps'.
    """
    folders = [Folder(place, noise) for place in dict.fromkeys(places)]
    return dict(zip(_name_places([f.place for f in folders]), folders, strict=True))


def _name_places(places: Sequence[Place]) -> list[str]:
    # a unique end of the path; in addresses, commas separate names
    names: list[str] = []
    for place in places:
        same = [p for p in places if p.name == place.name]
        name = place.name if len(same) == 1 else "/".join(Path(place.path).absolute().parts[-2:]).lstrip("/")
        name = name.replace(",", ";")
        names.append(name if name not in names else f"{name} ({len(names) + 1})")
    return names


def join_runs(runs: Mapping[str, Run]) -> Run:
    """Return several runs as one, with a column `run` in `trials`; a trial of two runs appears once.

    The settings are those that all runs share; the setting `trials` is the sum of the budgets.
    """
    trials = _join_tables("trials", runs).sort_by(_ORDER)
    return Run(
        name=", ".join(runs),
        place=" ".join(r.place for r in runs.values()),
        settings=_share_settings([r.settings for r in runs.values()]),
        spec=None,
        tables=_Tables(lambda name: _join_tables(name, runs), trials=trials),
        skipped=tuple(line for r in runs.values() for line in r.skipped),
        pooled=_describe_pool(runs),
        running=any(r.running for r in runs.values()),
        specs={name: r.spec for name, r in runs.items() if r.spec is not None},
        version="-".join(r.version for r in runs.values()),
    )


def _join_tables(name: str, runs: Mapping[str, Run]) -> pa.Table:
    seen: set[str] = set()
    parts: list[pa.Table] = []
    for run_name, run in runs.items():
        rows = run.tables[name]
        if name != "search":  # its rows belong to a configuration, not to a trial
            digests = rows["digest"].to_pylist()
            rows = rows.filter(pa.array([d not in seen for d in digests], pa.bool_()))
            seen |= set(digests)
        if name == "trials":
            rows = rows.append_column("run", pa.array([run_name] * rows.num_rows, pa.string()))
        parts.append(rows)
    return pa.concat_tables(parts).combine_chunks()


def _describe_pool(runs: Mapping[str, Run]) -> tuple[str, ...]:
    """Return sentences on the pooled runs and their differences."""
    sizes = ", ".join(f"{name} ({pluralize(run.tables['trials'].num_rows, 'trial')})" for name, run in runs.items())
    sentences = [f"This page pools {len(runs)} sweeps: {sizes}. All figures, optima and verdicts use all trials."]
    tasks = {name: _list_tasks(run.tables["trials"]) for name, run in runs.items()}
    objectives = {name: str((run.settings or {}).get("objective", "unknown")) for name, run in runs.items()}
    for what, values, why in (
        ("task", tasks, "losses and gains belong to different problems, and the pooled optimum to none of them"),
        ("objective", objectives, "each search sampled near its own optimum"),
    ):
        if len(set(values.values())) > 1:
            each = "; ".join(f"{name}: {value}" for name, value in values.items())
            sentences.append(f"The pooled sweeps differ in {what} ({each}): {why}.")
    return tuple(sentences)


def _list_tasks(trials: pa.Table) -> str:
    pairs = zip(trials["dataset"].to_pylist(), trials["model"].to_pylist(), strict=True)
    return ", ".join(sorted({f"{data} with {model}" for data, model in pairs})) or "none"


def _share_settings(settings: Sequence[Mapping[str, Any] | None]) -> Mapping[str, Any] | None:
    known = [s for s in settings if s is not None]
    if not known:
        return None
    same = {k: v for k, v in known[0].items() if all(s.get(k) == v for s in known)}
    budgets = [b for s in known if isinstance(b := s.get("trials"), int)]
    if len(budgets) == len(known):
        same["trials"] = sum(budgets)
    return same
