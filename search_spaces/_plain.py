"""Search spaces as JSON, which is readable without the space's Python file."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any, cast

from search_spaces._space import Space, SpaceError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

VERSION = 1
_TEXTS = ("name", "doc", "source", "budget")
_LISTS = ("merges", "freeze")
"""Fields of a trial that are tuples: JSON has lists only, and a choice must equal the trial's value."""


def to_json(space: Space) -> str:
    """Return a search space as JSON for `from_json`.

    Raises:
        SpaceError: A value is not JSON.
    """
    from optuna.distributions import BaseDistribution

    small = {k: v for k, v in space.smoke.items() if isinstance(v, BaseDistribution)}
    data: dict[str, Any] = {
        "version": VERSION,
        **{name: getattr(space, name) for name in _TEXTS},
        "fixed": dict(space.fixed),
        "knobs": _write_knobs(space.knobs),
        "conditions": {knob: dict(condition) for knob, condition in space.conditions.items()},
        "smoke": {"fixed": {k: v for k, v in space.smoke.items() if k not in small}, "knobs": _write_knobs(small)},
        "needs": dict(space.needs),
    }
    try:
        return json.dumps(data, indent=1, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise SpaceError(f"space {space.name!r} must hold JSON values only: {error}") from None


def from_json(text: str) -> Space:
    """Return the search space that `to_json` wrote, without loading a Python file.

    Raises:
        SpaceError: The text is no space, or a newer version wrote it.
    """
    with _explain_errors():
        data = _load(text)
        smoke: Mapping[str, Any] = data["smoke"]
        return Space(
            **{name: data[name] for name in _TEXTS},
            fixed=data["fixed"],
            knobs=_read(data["knobs"]),
            smoke={**smoke["fixed"], **_read(smoke["knobs"])},
            conditions=data["conditions"],
            needs=data.get("needs", {}),  # files of earlier versions have none
        )


def read_knob_names(text: str) -> list[str]:
    """Return the names of the knobs of the search space that `to_json` wrote, without loading Optuna.

    Raises:
        SpaceError: The text is no space, or a newer version wrote it.
    """
    with _explain_errors():
        return list(_load(text)["knobs"].keys())


@contextmanager
def _explain_errors() -> Generator[None]:
    try:
        yield
    except SpaceError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SpaceError(f"it holds no search space: {type(error).__name__}: {error}") from None


def _load(text: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(text)
    version = data["version"]
    if version != VERSION:
        raise SpaceError(f"it has version {version!r}, but this sweeper reads version {VERSION}; upgrade sweeper")
    return data


def _write_knobs(knobs: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    from optuna.distributions import distribution_to_json

    return {name: json.loads(distribution_to_json(distribution)) for name, distribution in knobs.items()}


def _read(knobs: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    from optuna.distributions import CategoricalDistribution, json_to_distribution

    distributions: dict[str, BaseDistribution] = {}
    for name, data in knobs.items():
        if name in _LISTS:
            choices: list[Any] = [tuple(choice) for choice in data["attributes"]["choices"]]
            distributions[name] = CategoricalDistribution(choices)
        else:
            distributions[name] = json_to_distribution(json.dumps(data))
    return distributions


def _plain(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Mapping):
        return dict(cast(Mapping[str, Any], value))
    if hasattr(value, "item"):  # a number of numpy
        return cast(Any, value).item()
    raise TypeError(f"{value!r} is a {type(value).__name__}")
