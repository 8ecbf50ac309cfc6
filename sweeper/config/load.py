"""Sources of a sweep: a file or the name of a space, with the keys that flags or a request set on top."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from search_spaces import Space, load, names
from sweeper.config.plain_text import check_plain_values
from sweeper.config.points import convert_points, read_points
from sweeper.config.prepared import PreparedSweep, prepare
from sweeper.config.spec import SweepSpec
from sweeper.config.yaml_source import locate, read_yaml
from sweeper.errors import SpecError

_MERGED = ("fixed", "resources")  # mappings that are overridden entry by entry


@dataclass(frozen=True)
class SpecSource:
    """Keys of a sweep as its user wrote them.

    Attributes:
        values: The keys and their values, not yet checked.
        lines: Dotted key -> its line in `file`.
        file: Name of the file, for messages; empty without a file.
    """

    values: Mapping[str, Any]
    lines: Mapping[str, int] = field(default_factory=lambda: {})
    file: str = ""

    def override(self, changes: Mapping[str, Any]) -> SpecSource:
        """Return the source with other values of some keys.

        `fixed` and `resources` change entry by entry. A knob that `fixed` sets leaves `parameters`, and `objective`
        replaces all objectives. Messages name no line for a changed key.
        """
        values, moved = {**self.values, **changes}, set(changes)
        for key in _MERGED:
            if isinstance(given := changes.get(key), Mapping):
                old = self.values.get(key) or {}
                # a wrong value of the file stays: the check refuses it with its line
                values[key] = {**old, **given} if isinstance(old, Mapping) else old
                moved |= {f"{key}.{name}" for name in given}
        if isinstance(knobs := values.get("parameters"), Mapping):
            values["parameters"] = {k: v for k, v in knobs.items() if k not in (changes.get("fixed") or {})}
        if "objective" in changes:
            values.pop("further_objectives", None)
        return replace(self, values=values, lines={k: n for k, n in self.lines.items() if k not in moved})

    def prepare(
        self, find: Callable[[str], Space] = load, check: Callable[[SweepSpec], None] = lambda _: None
    ) -> PreparedSweep:
        """Return the prepared sweep; see `sweeper.config.prepared.prepare`.

        Args:
            find: Returns the space of a name or path.
            check: Called with the spec before `find`.

        Raises:
            SpecError: The sweep is wrong; the message names the line.
        """
        spec = SweepSpec.checked(self.values, self.lines, self.file)
        check(spec)
        try:
            return prepare(spec, find)
        except SpecError as error:
            groups = {"parameters": spec.parameters, "fixed": spec.fixed}
            raise SpecError(locate(str(error), groups, self.lines, self.file)) from None


def load_sweep(target: str, flags: Mapping[str, Any] | None = None) -> PreparedSweep:
    """Return the sweep of `SPACE|spec.yaml` and flags; flags win.

    Args:
        target: Name of a space, path of a user's Python space file, or path of a YAML spec.
        flags: Keys of `SweepSpec`; see `SpecSource.override`. `enqueue` may be the path of a file of configurations.

    Raises:
        SpecError: The sweep is wrong; the message is one line.
    """
    flags = dict(flags or {})
    points = flags.pop("enqueue") if isinstance(flags.get("enqueue"), str) else None
    source = _read_source(target).override(flags)
    check_plain_values(source.values, source.lines, source.file)
    sweep = source.prepare()
    return sweep if points is None else _enqueue(sweep, points)


def _read_source(target: str) -> SpecSource:
    if target.endswith((".yaml", ".yml")):
        return SpecSource(*read_yaml(Path(target)), target)
    if not target.endswith(".py") and target not in names() and (Path(target).exists() or "/" in target):
        what = "a folder" if Path(target).is_dir() else "another file" if Path(target).exists() else "no such file"
        raise SpecError(
            "a sweep is the name of a space, a space file (.py), or a sweep file: YAML (.yaml) with the key `space`; "
            f"got {target}, {what}; `sweeper spaces` lists the spaces"
        )
    return SpecSource({"space": str(Path(target).resolve()) if target.endswith(".py") else target})


def _enqueue(sweep: PreparedSweep, file: str) -> PreparedSweep:
    points = read_points(Path(file), sweep.space)
    spec = SweepSpec.checked({**sweep.spec.model_dump(exclude_unset=True), "enqueue": points})
    try:
        convert_points(sweep.space, spec.enqueue)
    except ValueError as error:
        raise SpecError(f"{file}: {error}") from None
    return replace(sweep, spec=spec)
