"""Details of a trial: settings, outcome, training and merge curves, and the command that runs it again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dashboards.charts.axes import round_to, shorten
from dashboards.charts.chart import Chart, finish, make_figure
from dashboards.charts.theme import CYCLE
from dashboards.data.runs import Run
from dashboards.data.trial_rows import HEADS, KNOBS
from sweeper.analysis.trial_counts import split_warnings
from sweeper.formatting import method_words
from trainables.result import TASKS, trial_columns
from trainables.trial import IMPORTED

_SHOWN = (
    *KNOBS,
    "epochs",
    "steps",
    "proxy",
    "examples",
    "parameters",
    "device",
    "device_seconds",
    "started",
    "version",
)
_UNITS = {c.name: c.unit for c in trial_columns()}


@dataclass(frozen=True)
class Details:
    """Details of a trial.

    Attributes:
        title: Number, repeat and digest.
        sentence: Outcome with its detail.
        warnings: Warnings about its numbers.
        facts: Name with unit, and value, as texts.
        command: Command that runs it again and compares the numbers; empty if it was trained elsewhere.
        spec: The spec as indented JSON.
        charts: Training and merge curves, as far as they exist.
    """

    digest: str
    title: str
    sentence: str
    warnings: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    command: str
    spec: str
    charts: tuple[Chart, ...]


def find_row(trials: pa.Table, digest: str) -> dict[str, Any] | None:
    """Return the row of a trial; None without one."""
    index = pc.index(trials["digest"], digest).as_py() if trials.num_rows else -1
    return trials.slice(index, 1).to_pylist()[0] if index >= 0 else None


def describe_trial(row: Mapping[str, Any], run: Run, history: pa.Table, merges: pa.Table) -> Details:
    """Return the details of a trial.

    Args:
        row: Its row of the trials table.
        run: Its run.
        history: Its rows of the history table.
        merges: Its rows of the merges table.
    """
    detail = f": {row['outcome_detail']}" if row["outcome_detail"] else ""
    charts = (draw_training(history), draw_merges(merges))
    number = "" if row["number"] is None else f"Trial {row['number']}, repeat {row['repeat']} · "
    return Details(
        digest=row["digest"],
        title=f"{number}{row['digest']}",
        sentence=f"{row['outcome'].replace('_', ' ')}{detail}",
        warnings=tuple(f"{key}: {sentence}" for key, sentence in split_warnings(row["warnings"])),
        facts=(*(_format_fact(n, row[n]) for n in _SHOWN if row[n] is not None), *_list_children(row)),
        command="" if row["trainable"] == IMPORTED else f"sweeper pair {run.called} {row['digest']}{run.flags}",
        spec=_indent(row["spec"]),
        charts=tuple(c for c in charts if c is not None),
    )


def _format_fact(name: str, value: Any) -> tuple[str, str]:
    unit = f" [{_UNITS[name]}]" if _UNITS.get(name) not in ("", "1", None, name) else ""
    if name == "started":
        value = str(value)[:19].replace("T", " ") + " UTC"
    text = shorten(value, 4) if isinstance(value, float) else str(value)
    return HEADS.get(name, name.replace("_", " ")) + unit, text


def _list_children(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the number of children, then name and test scores of every scored child."""
    yield "children", str(row["members"])
    for child in TASKS:
        loss, accuracy = (row.get(f"{child}_{what}_test") for what in ("loss", "accuracy"))
        if loss is not None:
            share = f", {100 * accuracy:.1f} %" if accuracy is not None else ""
            yield f"child {child.upper()}, test", f"{shorten(loss, 4)} nat{share}"


def _indent(spec: str) -> str:
    try:
        return json.dumps(json.loads(spec), indent=1, ensure_ascii=False)
    except ValueError:
        return spec


def draw_training(history: pa.Table) -> Chart | None:
    """Draw training and validation loss per child and epoch; None without a history."""
    if not history.num_rows:
        return None
    figure = make_figure()
    rows = history.sort_by([("member", "ascending"), ("epoch", "ascending")]).to_pylist()
    colours = dict(zip(dict.fromkeys(r["member"] for r in rows), cycle(CYCLE), strict=False))
    for member in colours:
        points = [r for r in rows if r["member"] == member]
        for column, label, dash in (("train_loss", "training", "dot"), ("val_loss", "validation", "solid")):
            figure.add_scatter(
                name=f"child {member.upper()}, {label}",
                x=[r["epoch"] for r in points],
                y=[round_to(r[column]) for r in points],
                mode="lines+markers",
                marker={"size": 5},
                line={"width": 2, "dash": dash, "color": colours[member]},
                hovertemplate="epoch %{x}: %{y:.4g} nat<extra>%{fullData.name}</extra>",
            )
    figure.update_xaxes(title={"text": "epoch"}, rangemode="tozero")
    figure.update_yaxes(title={"text": "loss [nat]"}, rangemode="tozero")
    return Chart(
        "training",
        "Training",
        "Losses after each epoch; the training loss is the mean over its batches.",
        finish(figure),
        320,
    )


def draw_merges(merges: pa.Table) -> Chart | None:
    """Draw the test loss of each merge over its coefficient; None without merges."""
    scored = [r for r in merges.to_pylist() if round_to(r["loss_test"]) is not None]
    if not scored:
        return None
    figure = make_figure()
    lines = dict.fromkeys((r["method"], r["window"]) for r in scored)
    colours = dict(zip(dict.fromkeys(method for method, _ in lines), list(CYCLE) * 10, strict=False))
    for method, window in lines:
        own = (r for r in scored if (r["method"], r["window"]) == (method, window))
        points = sorted(own, key=lambda r: r["coefficient"])
        figure.add_scatter(
            name=method_words(method) + (f", window {window}" if window else ""),
            x=[round_to(r["coefficient"]) for r in points],
            y=[round_to(r["loss_test"]) for r in points],
            mode="lines+markers" if len(points) > 1 else "markers",
            marker={"size": 6 if len(points) > 1 else 9},
            line={"width": 2, "color": colours[method], "dash": "dot" if window else "solid"},
            hovertemplate="%{x:.3g}: %{y:.4g} nat<extra>%{fullData.name}</extra>",
        )
    figure.update_xaxes(title={"text": "coefficient α or s"})
    figure.update_yaxes(title={"text": "test loss of the merge [nat]"})
    return Chart(
        "merges", "Merges", "Losses after BatchNorm recalibration, if the model has BatchNorm.", finish(figure), 320
    )
