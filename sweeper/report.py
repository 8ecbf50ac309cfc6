"""Results as text for a terminal: a sweep's summary and a table of recommendations, at most 100 columns."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sweeper.objective import OBJECTIVES

if TYPE_CHECKING:
    from sweeper.recommend import Recommendation

WIDTH = 100
SYNTHETIC = "synthetic closed form: no network was trained"
_TEST_ROWS = {
    "parents": "parents, mean",
    "a": "parent A",
    "b": "parent B",
    "merged": "merged, linear 1/2",
    "chosen": "merged, chosen on validation",
    "ensemble": "ensemble of the parents",
}
_NO_MERGE: Mapping[tuple[str, float | None], str] = {
    **{(method, 0.0): "parent A" for method in ("linear", "slerp", "fisher")},
    **{(method, 1.0): "parent B" for method in ("linear", "slerp", "fisher")},
    **{(method, 0.0): "the base" for method in ("task_arithmetic", "ties", "dare")},
}
_NO_COEFFICIENT = ("uniform_soup", "greedy_soup")


def emit(as_json: bool, record: Any, text: str) -> None:
    """Print a command's result on stdout: the record as JSON, or the text."""
    print(json.dumps(record, indent=1, default=str) if as_json else text)


def number(value: float | None) -> str:
    """Return a number with three significant digits, `-` where there is none."""
    if value is None or not math.isfinite(value):
        return "-"
    # %g turns 1234 into 1.23e+03
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def merge_words(method: str, coefficient: float | None) -> str:
    """Return a merge with its coefficient for people; the ends of a merge that are no merge are called so."""
    if method in _NO_COEFFICIENT:
        return method.replace("_", " ")
    plain = _NO_MERGE.get((method, coefficient))
    return f"{plain} (no merge)" if plain else f"{method.replace('_', ' ')} at {number(coefficient)}"


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, indent: int = 2) -> str:
    """Return a table with its first column aligned left and the others right, without trailing blanks."""
    widths = [max(len(line[i]) for line in (header, *rows)) for i in range(len(header))]
    lines: list[str] = []
    for line in (header, *rows):
        cells = [f"{c:<{w}}" if i == 0 else f"{c:>{w}}" for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        lines.append((" " * indent + "  ".join(cells)).rstrip())
    return "\n".join(lines)


def format_summary(record: Mapping[str, Any]) -> str:
    """Return the record of `sweeper.recommend.summary` as text, at most `WIDTH` columns wide."""
    counts = ", ".join(f"{n} {outcome}" for outcome, n in record["counts"].items()) or "none yet"
    head = f"{record['trials']} trials of {record['configs']} configurations ({counts})"
    parts = [wrap(f"{head}, {number(record['device_seconds'])} s of device time", 0)]
    if record["synthetic"]:
        parts.append(SYNTHETIC)
    parts.append(_regimes(record))
    parts.append(_best(record) if record["best"] else "no configuration has won yet: none of the pairs is viable")
    return "\n\n".join(parts)


def wrap(text: str, indent: int) -> str:
    """Return text in lines of at most `WIDTH` columns, the first indented by `indent`, the others by two more."""
    return textwrap.fill(text, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * (indent + 2))


def _regimes(record: Mapping[str, Any]) -> str:
    title = f"best noise {record['formula']} [{record['unit']}] for"
    header = ("objective", "noise", "90 % interval", "at an edge", "interior", "predicted", "configs")
    rows: list[tuple[str, ...]] = []
    notes: list[str] = []
    for name, regime in record["regimes"].items():
        known = regime["optimum"] is not None
        rows.append(
            (
                name,
                number(regime["optimum"]),
                f"{number(regime['low'])} to {number(regime['high'])}" if known else "-",
                f"{regime['edge_share']:.0%}" if known else "-",
                _interior(regime) if known else "-",
                number(regime["value"]),
                str(regime["n_configs"]),
            )
        )
        notes.append(wrap(f"{name}: {regime['message']}", 2))
    labels = [f"{name} = {OBJECTIVES[name].label}" for name in record["regimes"]]
    return "\n".join((title, format_table(header, rows), *notes, wrap("; ".join(labels), 2)))


def _interior(regime: Mapping[str, Any]) -> str:
    if not regime["interior"]:
        return "no"
    return "yes, in this search" if regime["adaptive"] else "yes"


def _best(record: Mapping[str, Any]) -> str:
    best = record["best"]
    repeats = best["config_repeats"]
    means = f"{number(best['config_mean'])} over {repeats} repeat{'s' if repeats > 1 else ''}"
    knobs = {
        "learning rate": number(best["learning_rate"]),
        "batch size": str(best["batch_size"]),
        "momentum": number(best["momentum"]),
        "weight decay": number(best["weight_decay"]),
        f"augmentation {best['augmentation']}": number(best["augmentation_strength"]),
        "noise": number(best["noise"]),
    }
    rows = [
        (text, number(best["test"][who]["loss"]), _percent(best["test"][who]["accuracy"]))
        for who, text in _TEST_ROWS.items()
    ]
    lines = [
        wrap(f"best trial by {record['objective']} on validation ({means}): {best['digest']}", 0),
        wrap(", ".join(f"{name} {value}" for name, value in knobs.items()), 2),
        format_table(("on test", "loss [nat]", "accuracy"), rows),
    ]
    if best["chosen_merge"] is not None:
        lines.append(f"  chosen on validation: {merge_words(best['chosen_merge'], best['chosen_coefficient'])}")
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.3g} %"


def format_recommendations(recommendations: Sequence[Recommendation]) -> str:
    """Return recommendations as a table; `*` marks a knob outside what was tried, `!` beyond the stability limit."""
    header = ("batch size", "learning rate", "interval", "momentum", "weight decay", "noise", "")
    rows = [
        (
            _marked(r, "batch_size"),
            _marked(r, "learning_rate"),
            f"{number(r.learning_rate_low)} to {number(r.learning_rate_high)}",
            _marked(r, "momentum"),
            _marked(r, "weight_decay"),
            number(r.noise),
            "!" if r.beyond_stability else "",
        )
        for r in recommendations
    ]
    lines = [format_table(header, rows, indent=0)]
    if any(r.outside_tried for r in recommendations):
        lines.append("* outside what the viable trials tried")
    if beyond := [r for r in recommendations if r.beyond_stability]:
        lines.append(wrap(f"! beyond the stability limit that was seen: {beyond[0].note}", 0))
    return "\n".join(lines)


def _marked(recommendation: Recommendation, knob: str) -> str:
    # a blank keeps the digits of marked and unmarked rows aligned
    return number(getattr(recommendation, knob)) + ("*" if knob in recommendation.outside_tried else " ")
