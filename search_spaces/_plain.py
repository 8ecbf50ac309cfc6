"""Search spaces as plain data: JSON in and out, so that a space can be read without its Python file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any, cast

from search_spaces._space import Space, SpaceError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

VERSION = 1
_TEXTS = ("name", "doc", "source", "budget")
_LISTS = ("merges", "freeze")
"""Fields of a trial that hold several names: JSON has no tuples, and a choice must equal the trial's own value."""


def to_json(space: Space) -> str:
    """Return a search space as JSON that `from_json` reads back.

    Raises:
        SpaceError: A value is no JSON.
    """
    from optuna.distributions import BaseDistribution

    small = {k: v for k, v in space.smoke.items() if isinstance(v, BaseDistribution)}
    data: dict[str, Any] = {
        "version": VERSION,
        **{name: getattr(space, name) for name in _TEXTS},
        "fixed": dict(space.fixed),
        "knobs": _written(space.knobs),
        "conditions": {knob: dict(condition) for knob, condition in space.conditions.items()},
        "smoke": {"fixed": {k: v for k, v in space.smoke.items() if k not in small}, "knobs": _written(small)},
    }
    try:
        return json.dumps(data, indent=1, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise SpaceError(f"space {space.name!r} must hold JSON values only: {error}") from None


def from_json(text: str) -> Space:
    """Read a search space from the text of `to_json`; no Python file is loaded.

    Raises:
        SpaceError: The text holds no space, or a later version wrote it.
    """
    try:
        data: dict[str, Any] = json.loads(text)
        version = data["version"]
        if version != VERSION:
            raise SpaceError(f"it has version {version!r} and this sweeper reads version {VERSION}: upgrade sweeper")
        smoke: Mapping[str, Any] = data["smoke"]
        return Space(
            **{name: data[name] for name in _TEXTS},
            fixed=data["fixed"],
            knobs=_read(data["knobs"]),
            smoke={**smoke["fixed"], **_read(smoke["knobs"])},
            conditions=data["conditions"],
        )
    except SpaceError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SpaceError(f"it holds no search space: {type(error).__name__}: {error}") from None


def _written(knobs: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    from optuna.distributions import distribution_to_json

    return {name: json.loads(distribution_to_json(distribution)) for name, distribution in knobs.items()}


def _read(knobs: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    from optuna.distributions import CategoricalDistribution, json_to_distribution

    found: dict[str, BaseDistribution] = {}
    for name, data in knobs.items():
        if name in _LISTS:
            choices: list[Any] = [tuple(choice) for choice in data["attributes"]["choices"]]
            found[name] = CategoricalDistribution(choices)
        else:
            found[name] = json_to_distribution(json.dumps(data))
    return found


def _plain(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Mapping):
        return dict(cast(Mapping[str, Any], value))
    if hasattr(value, "item"):  # a number of numpy
        return cast(Any, value).item()
    raise TypeError(f"{value!r} is a {type(value).__name__}")
