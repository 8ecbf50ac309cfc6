"""Enqueued points: configurations that a sweep tries first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from search_spaces import Space
from search_spaces._space import SpaceError
from sweeper.config.table_values import BadCells, parse, read_csv
from sweeper.config.yaml_source import read_values
from sweeper.errors import SpecError
from sweeper.formatting import exact_text
from trainables.io.printable import show_value
from trainables.registry import unknown
from trainables.spec import PairSpec


def read_points(path: Path, space: Space) -> list[dict[str, Any]]:
    """Return the configurations in a file: a YAML or JSON list of mappings, or a CSV with one column per knob.

    From a trials table that `sweeper export` wrote, it takes the configurations whose outcome is `ok`.

    Raises:
        SpecError: The file cannot be read, or has another form.
    """
    data = _from_csv(path, space) if path.suffix == ".csv" else read_values(path)[0]
    if not isinstance(data, list) or not data or not all(isinstance(p, dict) for p in data):
        raise SpecError(f"{path} must be a list of configurations, such as `- {{learning_rate: 0.1}}`")
    return data


def _from_csv(path: Path, space: Space) -> list[dict[str, Any]]:
    table = read_csv(path)
    names, rows = table.names, table.rows
    bad = BadCells(str(path), len(rows), table.faults)
    if "spec" in names and "outcome" in names:
        bad.refuse()
        trials = [dict(zip(names, row, strict=True)) for row in rows]
        return _drop_duplicates(
            _params(path, i, row["spec"], space) for i, row in enumerate(trials, 1) if row["outcome"] == "ok"
        )
    columns = {
        name: bad.parse([row[i] for row in rows], _kind(space.knobs.get(name)), f"column {name!r}")
        for i, name in enumerate(names)
    }
    bad.refuse()
    points = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return _drop_duplicates({k: v for k, v in point.items() if v is not None} for point in points)


def _params(path: Path, row: int, spec: str, space: Space) -> dict[str, Any]:
    try:
        return space.params_of(PairSpec.from_json(spec))
    except (ValueError, TypeError) as error:
        raise SpecError(f"{path}, row {row}, column 'spec': {error}") from None


def _drop_duplicates(points: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    unique: list[dict[str, Any]] = []
    for point in points:
        if point not in unique:
            unique.append(point)
    return unique


def _kind(distribution: Any) -> str | None:
    # type of the cells of a knob; None if its choices decide, or if the knob is unknown
    if distribution is None or hasattr(distribution, "choices"):
        return None
    return "int" if isinstance(distribution.low, int) else "float"


def convert_points(space: Space, points: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return configurations with values of the types of their knobs; knobs may be missing.

    Raises:
        SpaceError: A knob is unknown, or a value is outside its range; the message names the configuration.
    """
    return [_convert(space, point, f"configuration {i} of enqueue") for i, point in enumerate(points, 1)]


def _convert(space: Space, point: Mapping[str, Any], where: str) -> dict[str, Any]:
    for name in point:
        if name not in space.knobs:
            raise SpaceError(f"{where}: {unknown('knob', name, space.knobs)}")
    return {name: _convert_value(space.knobs[name], value, f"{where}: {name}") for name, value in point.items()}


def _convert_value(distribution: Any, value: Any, where: str) -> Any:
    number = _number(value)
    if hasattr(distribution, "choices"):
        for choice in distribution.choices:
            if isinstance(choice, bool) == isinstance(value, bool) and (choice == value or str(choice) == str(value)):
                return choice
            if number is not None and _number(choice) == number:
                return choice
        rule = f"be one of {', '.join(map(str, distribution.choices))}"
    else:
        whole = isinstance(distribution.low, int)
        if number is not None and distribution._contains(number) and not (whole and number % 1):
            return int(number) if whole else number
        rule = f"be {'whole and ' if whole else ''}in [{exact_text(distribution.low)}, {exact_text(distribution.high)}]"
        rule += f" in steps of {exact_text(distribution.step)}" if distribution.step not in (None, 1) else ""
    raise SpaceError(
        f"{where} must {rule}, got {show_value(value)}; change its range under parameters, or leave the knob out"
    )


def _number(value: Any) -> float | None:
    try:
        return parse(value, "float")
    except (ValueError, OverflowError):
        return None
