"""Records of spaces, noises and merges, for the command line and the service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from search_spaces import Space
from trainables.noise import NOISE

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def space_records() -> list[dict[str, Any]]:
    """Return the search spaces as records that JSON can hold."""
    import search_spaces

    return [space_record(search_spaces.load(name)) for name in search_spaces.names()]


def space_record(space: Space) -> dict[str, Any]:
    """Return a search space as a record that JSON can hold."""
    return {
        "name": space.name,
        "doc": space.doc,
        "budget": space.budget,
        "source": space.source,
        "knobs": _texts(space),
        "fixed": dict(space.fixed),
        "smoke": {k: v if k not in space.small().knobs else str(v) for k, v in space.smoke.items()},
    }


def noise_records() -> list[dict[str, Any]]:
    """Return the noise scales as records that JSON can hold."""
    return [
        {
            "name": s.name,
            "kind": s.kind,
            "formula": s.formula,
            "unit": s.unit,
            "solves": list(s.knobs),
            "optimizers": list(s.families),
            "source": s.source,
        }
        for s in NOISE.values()
    ]


def merge_records() -> list[dict[str, Any]]:
    """Return the merges as records that JSON can hold."""
    from trainables.merging.methods import BY_SCORE, MERGES

    records: list[dict[str, Any]] = [
        {"name": m.name, "formula": m.formula, "grid": list(m.grid), "symbol": m.symbol, "source": m.source}
        for m in MERGES.values()
    ]
    # no functions of the weights alone: they ask for validation scores
    searched = (
        {"name": name, "formula": m.description, "grid": [], "symbol": "", "source": m.source}
        for name, m in BY_SCORE.items()
    )
    return [*records, *searched]


def _texts(space: Space) -> dict[str, str]:
    def when(name: str) -> str:
        parts = [f"{other} is {' or '.join(map(str, v))}" for other, v in space.conditions.get(name, {}).items()]
        return f" when {' and '.join(parts)}" if parts else ""

    return {name: f"{describe_range(knob)}{when(name)}" for name, knob in space.knobs.items()}


def describe_range(knob: BaseDistribution) -> str:
    """Return the range or the choices of a knob in words, such as `0.01 to 1, log`."""
    choices: Any = getattr(knob, "choices", None)
    if choices is not None:
        return "one of " + ", ".join(map(str, choices))
    ends: Any = knob
    step = getattr(knob, "step", None)
    words = [f"{ends.low:g} to {ends.high:g}", *(["log"] if ends.log else [])]
    words += ["whole"] if isinstance(ends.low, int) else []
    words += [f"in steps of {step:g}"] if step not in (None, 1) else []
    return ", ".join(words)
