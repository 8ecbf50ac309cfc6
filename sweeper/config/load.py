"""Loads a sweep's spec from a file and flags."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from search_spaces import Space, load
from sweeper.config.plain_text import check_plain_values
from sweeper.config.points import read_points
from sweeper.config.spec import SweepSpec
from sweeper.config.yaml_source import placed, read_yaml
from sweeper.errors import SpecError


def load_spec(target: str, flags: Mapping[str, Any] | None = None) -> SweepSpec:
    """Build a sweep from `SPACE|spec.yaml` and flags; flags win.

    Args:
        target: Name of a space, path of a user's Python space file, or path of a YAML spec.
        flags: Keys of `SweepSpec`; `fixed` is added to the file's own, and a knob of the file that it fixes is dropped;
            `enqueue` may be the path of a file of configurations.

    Raises:
        SpecError: Anything wrong with it, in one line.
    """
    flags = dict(flags or {})
    added, resources = flags.pop("fixed", {}), flags.pop("resources", {})
    file = flags.pop("enqueue") if isinstance(flags.get("enqueue"), str) else None
    if target.endswith((".yaml", ".yml")):
        values, lines = read_yaml(Path(target))
        if resources:
            flags["resources"] = {**(values.get("resources") or {}), **resources}
        for key in (*flags, *(f"fixed.{name}" for name in added)):
            lines.pop(key, None)
        check_plain_values({**values, **flags, "fixed": {**(values.get("fixed") or {}), **added}}, lines, target)
        spec = _with_fixed(SweepSpec.checked({**values, **flags}, lines, target), added)
        space_of(spec, lines, target)
    else:
        check_plain_values({"space": target, **flags, "fixed": added})
        space = str(Path(target).resolve()) if target.endswith(".py") else target
        spec = _with_fixed(
            SweepSpec.checked({"space": space, **({"resources": resources} if resources else {}), **flags}), added
        )
        spec.load_space()
    if file is None:
        return spec
    points = read_points(Path(file), spec.load_space())
    spec = SweepSpec.checked({**spec.model_dump(exclude_unset=True), "enqueue": points})
    try:
        spec.load_space()
    except SpecError as error:
        raise SpecError(f"{file}: {error}") from None
    return spec


def space_of(spec: SweepSpec, lines: Mapping[str, int], where: str, find: Callable[[str], Space] = load) -> Space:
    """Return the search space of a spec whose keys stand on `lines` of the file `where`; see `SweepSpec.load_space`.

    Raises:
        SpecError: Something is wrong with it; the message names the line.
    """
    try:
        return spec.load_space(find)
    except SpecError as error:
        groups = {"parameters": spec.parameters, "fixed": spec.fixed}
        raise SpecError(placed(str(error), groups, lines, where)) from None


def _with_fixed(spec: SweepSpec, added: Mapping[str, Any]) -> SweepSpec:
    parameters = {name: p for name, p in spec.parameters.items() if name not in added}
    return spec.model_copy(update={"fixed": {**spec.fixed, **added}, "parameters": parameters})
