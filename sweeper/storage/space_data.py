"""Search space of a run folder as data, written at the start of a sweep for readers.

A space file is a user's code, which readers never execute. They read `space.json`, which holds the space with the
ranges and values of the sweep. Folders of earlier versions lack this file. Built-in spaces do not need it; for a space
file, ranges that `sweep.yaml` lacks are estimated from the trials.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

from search_spaces import Space
from search_spaces._plain import from_json, read_knob_names, to_json
from search_spaces._space import SpaceError
from sweeper.config.space import load_space
from sweeper.config.spec import SweepSpec
from sweeper.errors import SpecError
from sweeper.storage.location import place_of
from sweeper.storage.tables import Run, read
from trainables.spec import PairSpec

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

SPACE_FILE = "space.json"
_DRAWN = ("seed", "repeat", "stack")
_LEVELS = 16  # a knob with at most this number of distinct values has no range
_LOG = 10.0  # a range with at least this ratio of its ends counts as logarithmic

Params = Sequence[Mapping[str, Any]]
T = TypeVar("T")


@dataclass(frozen=True)
class KnownSpace:
    """The search space of a sweep, from its folder.

    Attributes:
        space: The space with the ranges and values of the sweep.
        assumed: Sentence on the parts that are estimated from the trials; empty if everything is stored.
    """

    space: Space
    assumed: str = ""


def write_space(run: Run, space: Space) -> None:
    """Store the space of a sweep in its folder, unless it is stored already.

    Raises:
        SpecError: The space holds values that are not JSON.
        StorageError: The folder cannot be written to.
    """
    place = place_of(run)
    try:
        text = to_json(space)
    except SpaceError as error:
        raise SpecError(str(error)) from None
    if place.read_text(SPACE_FILE) != text:
        place.write(SPACE_FILE, text.encode())


def known_space(spec: SweepSpec) -> KnownSpace:
    """Return the space of a stored sweep without executing a space file.

    Args:
        spec: The sweep, as `sweeper.storage.run_folder.stored_spec` yields it.

    Raises:
        SpecError: The folder does not determine the space.
    """
    if (stored := _read_stored(spec, from_json)) is not None:
        return KnownSpace(stored)
    if not spec.space.endswith(".py"):
        return KnownSpace(load_space(spec))
    if spec.out is None:
        raise SpecError(f"the space file {spec.space} is not executed to read a sweep, and no run folder is given")
    return _rebuild(spec)


def known_knobs(spec: SweepSpec) -> list[str]:
    """Return the names of the knobs of a stored sweep's space, fast if the folder holds the space; see `known_space`.

    Raises:
        SpecError: The folder does not determine the space.
    """
    names = _read_stored(spec, read_knob_names)
    return list(known_space(spec).space.knobs) if names is None else names


def _read_stored(spec: SweepSpec, parse: Callable[[str], T]) -> T | None:
    if spec.out is None or (text := place_of(spec.out).read_text(SPACE_FILE)) is None:
        return None
    try:
        return parse(text)
    except SpaceError as error:
        raise SpecError(f"cannot read {place_of(spec.out).text}/{SPACE_FILE}: {error}") from None


def _rebuild(spec: SweepSpec) -> KnownSpace:
    """Return the space of a folder of an earlier version, from its settings and its trials.

    Raises:
        SpecError: They do not determine it.
    """
    assert spec.out is not None
    first, params = _read_tried(spec.out)
    names = dict.fromkeys([*(n for p in params for n in p), *(n for n, p in spec.parameters.items() if p.has_range)])
    if not first or not names:
        raise SpecError(
            f"{place_of(spec.out).text} has no {SPACE_FILE} and too few trials to determine its search space, because "
            "an earlier version wrote it; `sweeper resume` stores the space"
        )
    kinds = {f.name: str(f.type) for f in fields(PairSpec)}
    knobs: dict[str, BaseDistribution] = {}
    assumed: list[str] = []
    for name in names:
        if name in spec.parameters and spec.parameters[name].has_range:
            knobs[name] = spec.parameters[name].to_optuna(kinds.get(name, ""))
        else:
            knobs[name] = _range([p[name] for p in params if name in p])
            assumed.append(name)
    fixed = {k: v for k, v in first.items() if k not in knobs and k not in _DRAWN}
    conditions = {n: p.when for n, p in spec.parameters.items() if p.when is not None}
    conditions |= {n: _condition(n, params) for n in names if n not in conditions and any(n not in p for p in params)}
    try:
        space = Space("rebuilt from its trials", fixed, knobs, conditions=conditions)
    except (SpaceError, ValueError) as error:
        raise SpecError(
            f"{place_of(spec.out).text} has no {SPACE_FILE}, and its trials do not determine it: {error}"
        ) from None
    return KnownSpace(space, _sentence(assumed))


def _read_tried(run: str) -> tuple[Mapping[str, Any], Params]:
    """Return the fields of one trial (empty without trials), and the knobs of each configuration."""
    specs = read(run, "trials")["spec"].to_pylist()
    first = json.loads(specs[0]) if specs else {}
    params = [json.loads(text) for text in read(run, "search")["params"].to_pylist()]
    if params or not specs:
        return first, params
    # an imported table has no search: its knobs are the fields that differ
    trials = [json.loads(text) for text in specs]
    varied = [k for k in first if k not in _DRAWN and any(t[k] != first[k] for t in trials)]
    return first, [{k: t[k] for k in varied} for t in trials]


def _range(values: Sequence[Any]) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    values = [tuple(v) if isinstance(v, list) else v for v in values]
    levels = [v for i, v in enumerate(values) if v not in values[:i]]
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in levels):
        low, high = min(levels), max(levels)
        if len(levels) > min(_LEVELS, len(values) // 2):  # values from a range rarely repeat
            log = low > 0 and high / low >= _LOG
            whole = all(isinstance(v, int) for v in levels)
            return IntDistribution(low, high, log=log) if whole else FloatDistribution(low, high, log=log)
        levels.sort()
    return CategoricalDistribution(levels)


def _condition(name: str, params: Params) -> dict[str, tuple[Any, ...]]:
    """Return the knob and its values with which the knob `name` acts.

    Raises:
        SpecError: No knob explains it.
    """
    for other in {n: None for p in params for n in p}:
        acted = [p[other] for p in params if other in p and name in p]
        rested = [p[other] for p in params if other in p and name not in p]
        if other != name and acted and not any(v in rested for v in acted) and all(isinstance(v, str) for v in acted):
            return {other: tuple(dict.fromkeys(acted))}
    raise SpecError(f"the trials do not tell when {name} acts, because an earlier version wrote their folder")


def _sentence(assumed: Sequence[str]) -> str:
    if not assumed:
        return ""
    return (
        f"an earlier version wrote this folder without the ranges of {', '.join(assumed)}: they count as the range of "
        "what was tried; `sweeper resume` stores them"
    )
