"""One trial in detail: what was asked, how it ended, its training and merge curves, and how to run it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dashboards.charts.axes import rounded, short
from dashboards.charts.chart import Chart, figure, finish
from dashboards.charts.theme import CYCLE
from dashboards.data.runs import Run
from dashboards.data.trial_rows import HEADS, KNOBS
from sweeper.analysis.trial_warnings import split_warnings
from trainables.result import trial_columns
from trainables.trial import IMPORTED

_COLOURS = {"a": CYCLE[0], "b": CYCLE[1]}
_SHOWN = (*KNOBS, "epochs", "steps", "examples", "parameters", "device", "device_seconds", "started", "version")
_UNITS = {c.name: c.unit for c in trial_columns()}


@dataclass(frozen=True)
class Details:
    """What is known of one trial.

    Attributes:
        title: Number, repeat and digest.
        sentence: How it ended.
        warnings: What makes its numbers doubtful.
        facts: Name with unit -> value, for people.
        command: The command that runs it again and compares the numbers; empty where it was trained elsewhere.
        spec: The whole spec as indented JSON.
        charts: Training curves and merge curves, where there are any.
    """

    digest: str
    title: str
    sentence: str
    warnings: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    command: str
    spec: str
    charts: tuple[Chart, ...]


def row_of(trials: pa.Table, digest: str) -> dict[str, Any] | None:
    """Return the row of a trial, None where it is not there."""
    found = pc.index(trials["digest"], digest).as_py() if trials.num_rows else -1
    return trials.slice(found, 1).to_pylist()[0] if found >= 0 else None


def details(row: Mapping[str, Any], run: Run, history: pa.Table, merges: pa.Table) -> Details:
    """Return the details of a trial.

    Args:
        row: Its row of the trials table.
        run: Its run.
        history: Its rows of this table.
        merges: Its rows of this table.
    """
    detail = f": {row['outcome_detail']}" if row["outcome_detail"] else ""
    charts = (training_chart(history), merges_chart(merges))
    number = "" if row["number"] is None else f"Trial {row['number']}, repeat {row['repeat']} · "
    return Details(
        digest=row["digest"],
        title=f"{number}{row['digest']}",
        sentence=f"{row['outcome'].replace('_', ' ')}{detail}",
        warnings=tuple(f"{key}: {sentence}" for key, sentence in split_warnings(row["warnings"])),
        facts=tuple(_fact(name, row[name]) for name in _SHOWN if row[name] is not None),
        command="" if row["trainable"] == IMPORTED else f"sweeper pair {run.called} {row['digest']}{run.flags}",
        spec=_indented(row["spec"]),
        charts=tuple(c for c in charts if c is not None),
    )


def _fact(name: str, value: Any) -> tuple[str, str]:
    unit = f" [{_UNITS[name]}]" if _UNITS.get(name) not in ("", "1", None, name) else ""
    if name == "started":
        value = str(value)[:19].replace("T", " ") + " UTC"
    return HEADS.get(name, name.replace("_", " ")) + unit, short(value, 4) if isinstance(value, float) else str(value)


def _indented(spec: str) -> str:
    try:
        return json.dumps(json.loads(spec), indent=1, ensure_ascii=False)
    except ValueError:
        return spec


def training_chart(history: pa.Table) -> Chart | None:
    """Draw training and validation loss of each child after each epoch; None without a history."""
    if not history.num_rows:
        return None
    shown = figure()
    rows = history.sort_by([("member", "ascending"), ("epoch", "ascending")]).to_pylist()
    for member in dict.fromkeys(r["member"] for r in rows):
        own = [r for r in rows if r["member"] == member]
        for column, words, dash in (("train_loss", "training", "dot"), ("val_loss", "validation", "solid")):
            shown.add_scatter(
                name=f"child {member.upper()}, {words}",
                x=[r["epoch"] for r in own],
                y=[rounded(r[column]) for r in own],
                mode="lines+markers",
                marker={"size": 5},
                line={"width": 2, "dash": dash, "color": _COLOURS.get(member, CYCLE[2])},
                hovertemplate="epoch %{x}: %{y:.4g} nat<extra>%{fullData.name}</extra>",
            )
    shown.update_xaxes(title={"text": "epoch [1]"}, rangemode="tozero")
    shown.update_yaxes(title={"text": "loss [nat]"}, rangemode="tozero")
    return Chart(
        "training", "Training", "After each epoch; training loss is the mean over its batches.", finish(shown), 320
    )


def merges_chart(merges: pa.Table) -> Chart | None:
    """Draw the test loss of each merge over its coefficient; None without merges."""
    scored = [r for r in merges.to_pylist() if rounded(r["loss_test"]) is not None]
    if not scored:
        return None
    shown = figure()
    for method, colour in zip(dict.fromkeys(r["method"] for r in scored), list(CYCLE) * 10, strict=False):
        own = sorted((r for r in scored if r["method"] == method), key=lambda r: r["coefficient"])
        shown.add_scatter(
            name=method.replace("_", " "),
            x=[rounded(r["coefficient"]) for r in own],
            y=[rounded(r["loss_test"]) for r in own],
            mode="lines+markers" if len(own) > 1 else "markers",
            marker={"size": 6 if len(own) > 1 else 9},
            line={"width": 2, "color": colour},
            hovertemplate="%{x:.3g}: %{y:.4g} nat<extra>%{fullData.name}</extra>",
        )
    shown.update_xaxes(title={"text": "coefficient α or s [1]"})
    shown.update_yaxes(title={"text": "test loss of the merge [nat]"})
    return Chart("merges", "Merges", "After BatchNorm recalibration, where there is any.", finish(shown), 320)
