"""Run folders as they grow: parts that were read are kept, only new ones are opened, several runs read as one."""

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
from sweeper.errors import SpecError
from sweeper.storage.incremental import GrowingTable
from sweeper.storage.location import Place, place_of
from sweeper.storage.run_folder import SPEC_FILE, is_running, spec_of, stored_values
from sweeper.storage.schema import SCHEMAS, with_messages
from sweeper.storage.tables import read_parts, skipped

pc: Any = pyarrow.compute  # whose functions are made when it is imported

_ORDER = [("number", "ascending"), ("repeat", "ascending")]


class _Tables(Mapping[str, pa.Table]):
    """Tables by name; those that are not at hand are loaded when they are first asked for."""

    def __init__(self, load: Callable[[str], pa.Table], **at_hand: pa.Table) -> None:
        self._load, self._known = load, dict(at_hand)

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
    """One run folder, read as it grows; for several threads.

    Args:
        place: Path or URI.
        noise: Noise to show instead of the sweep's own.
        outward: Turns a message into what whoever asks may read.
    """

    def __init__(self, place: str, noise: str | None = None, outward: Callable[[str], str] = str) -> None:
        self.place, self.text, self.noise, self.outward = place_of(place), place, noise, outward
        self._lock = threading.Lock()
        self._tables = {name: GrowingTable(name) for name in ("trials", "search")}
        self._settings: tuple[str | None, Mapping[str, Any] | None, SweepSpec | None] = (None, None, None)
        self._run: Run | None = None

    def run(self) -> Run:
        """Return the run as it is now; the same object as before where nothing changed.

        Raises:
            SpecError: The place cannot be reached, or is no folder.
        """
        with self._lock:
            try:
                return self._refreshed()
            except SpecError as error:
                raise type(error)(self.outward(str(error))) from None

    def _refreshed(self) -> Run:
        changed = self._read_settings()
        for table in self._tables.values():
            changed |= table.refresh(self.place)
        if self._run is None and not self.place.exists():
            raise SpecError(f"there is no folder {self.text}")
        running = is_running(self.place)
        if self._run is None or changed or running != self._run.running:
            self._run = self._made(running)
        return self._run

    def table(self, name: str) -> pa.Table:
        """Return a table that is not read all the time, and keep it up from now on."""
        with self._lock:
            if name not in self._tables:
                table = GrowingTable(name)
                table.refresh(self.place)
                # the run that asked for it is the one that holds it: no change since
                table.changes = 0
                self._tables[name] = table
            return self._tables[name].rows

    def rows_of(self, name: str, digest: str) -> pa.Table:
        """Return the rows of one trial of a table, from its own part where it has one."""
        own = f"{self.place.path}/{name}/{digest}.parquet"
        if isinstance(part := read_parts(self.place, [own], name)[own], pa.Table):
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
            except SpecError:  # the views say that the settings are lost
                pass
        if self.noise is not None:
            settings = {**(settings or {}), "noise": self.noise}
        self._settings = text, settings, spec
        return True

    def _made(self, running: bool) -> Run:
        trials = with_messages(self._tables["trials"].rows.sort_by(_ORDER), self.outward)
        marks = [f"{name}{t.changes}.{t.rows.num_rows}" for name, t in self._tables.items()]
        text = "\n".join([*marks, str(self._settings[0]), str(running)])
        return Run(
            name=self.place.name,
            place=self.place.text,
            settings=self._settings[1],
            spec=self._settings[2],
            tables=_Tables(self.table, trials=trials, search=self._tables["search"].rows),
            skipped=tuple(self.outward(skipped(p, why)) for t in self._tables.values() for p, why in t.skipped.items()),
            running=running,
            version=hashlib.sha256(text.encode()).hexdigest()[:16],
        )


class Live:
    """Several run folders under names that differ.

    Args:
        folders: Name -> folder; what is in it may change, and differ by who asks.
    """

    def __init__(self, folders: Mapping[str, Folder]) -> None:
        self.folders = folders
        self._joined: tuple[tuple[tuple[str, str], ...], Run] | None = None

    def run(self, names: Sequence[str]) -> Run:
        """Return one run, or several as one.

        Raises:
            SpecError: A place cannot be reached, or there is no run of a name.
        """
        runs = self.runs(names)
        if len(runs) == 1:
            return next(iter(runs.values()))
        key = tuple(r.key for r in runs.values())
        before = self._joined  # read once: another thread may put another reader's runs there
        if before is None or before[0] != key:
            before = self._joined = key, join(runs)
        return before[1]

    def runs(self, names: Sequence[str]) -> dict[str, Run]:
        """Return each of the runs by its name.

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
            raise SpecError(f"there is no sweep {name!r} here") from None


def folders_at(places: Sequence[str], noise: str | None = None) -> dict[str, Folder]:
    """Return the run folders at some places by names that tell them apart.

    Args:
        places: Paths or URIs.
        noise: Noise to show instead of the sweeps' own.
    """
    folders = [Folder(place, noise) for place in dict.fromkeys(places)]
    return dict(zip(_names([f.place for f in folders]), folders, strict=True))


def _names(places: Sequence[Place]) -> list[str]:
    # as much of the path as tells them apart; a comma separates names in the address
    found: list[str] = []
    for place in places:
        same = [p for p in places if p.name == place.name]
        name = place.name if len(same) == 1 else "/".join(Path(place.path).absolute().parts[-2:]).lstrip("/")
        name = name.replace(",", ";")
        found.append(name if name not in found else f"{name} ({len(found) + 1})")
    return found


def join(runs: Mapping[str, Run]) -> Run:
    """Return several runs as one: `trials` gets a column `run`, a trial that stands in two of them is there once.

    The settings are what all of them share, `trials` the sum of their budgets.
    """
    trials = _joined("trials", runs).sort_by(_ORDER)
    return Run(
        name=", ".join(runs),
        place=" ".join(r.place for r in runs.values()),
        settings=_shared([r.settings for r in runs.values()]),
        spec=None,
        tables=_Tables(lambda name: _joined(name, runs), trials=trials),
        skipped=tuple(line for r in runs.values() for line in r.skipped),
        pooled=_pooled(runs),
        running=any(r.running for r in runs.values()),
        version="-".join(r.version for r in runs.values()),
    )


def _joined(name: str, runs: Mapping[str, Run]) -> pa.Table:
    seen: set[str] = set()
    parts: list[pa.Table] = []
    for run_name, run in runs.items():
        rows = run.tables[name]
        if name != "search":  # whose rows belong to a configuration, not to a trial
            digests = rows["digest"].to_pylist()
            rows = rows.filter(pa.array([d not in seen for d in digests], pa.bool_()))
            seen |= set(digests)
        if name == "trials":
            rows = rows.append_column("run", pa.array([run_name] * rows.num_rows, pa.string()))
        parts.append(rows)
    return pa.concat_tables(parts).combine_chunks()


def _pooled(runs: Mapping[str, Run]) -> tuple[str, ...]:
    """Return that the runs are shown as one, and in what they differ."""
    sizes = ", ".join(f"{name} ({run.tables['trials'].num_rows} trials)" for name, run in runs.items())
    said = [f"{len(runs)} sweeps are pooled: {sizes}. Every figure, optimum and verdict here is of all their trials."]
    tasks = {name: _tasks(run.tables["trials"]) for name, run in runs.items()}
    objectives = {name: str((run.settings or {}).get("objective", "unknown")) for name, run in runs.items()}
    for what, values, why in (
        ("task", tasks, "their losses and gains are not of one problem, and a pooled optimum is of none of them"),
        ("objective", objectives, "each search sampled near its own optimum"),
    ):
        if len(set(values.values())) > 1:
            each = "; ".join(f"{name}: {value}" for name, value in values.items())
            said.append(f"The pooled sweeps differ in {what} ({each}): {why}.")
    return tuple(said)


def _tasks(trials: pa.Table) -> str:
    pairs = zip(trials["dataset"].to_pylist(), trials["model"].to_pylist(), strict=True)
    return ", ".join(sorted({f"{data} with {model}" for data, model in pairs})) or "none"


def _shared(settings: Sequence[Mapping[str, Any] | None]) -> Mapping[str, Any] | None:
    known = [s for s in settings if s is not None]
    if not known:
        return None
    same = {k: v for k, v in known[0].items() if all(s.get(k) == v for s in known)}
    budgets = [b for s in known if isinstance(b := s.get("trials"), int)]
    if len(budgets) == len(known):
        same["trials"] = sum(budgets)
    return same
