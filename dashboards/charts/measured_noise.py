"""Figures of two noises: measured against predicted, and that of the children against that of their trunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dashboards.charts.axes import make_log_axis, round_to, shorten, wrap_title
from dashboards.charts.chart import Chart, Measure, describe, finish, make_figure, make_markers
from dashboards.charts.colours import NOISE_SCALE, QuantileScale
from dashboards.data.configurations import ConfigPoint, group_configurations, read_floats
from sweeper.formatting import add_unit, pluralize
from trainables.noise import NOISE

# in order of preference: the paper's definition, and one that every optimizer has
MEASURED = ("paper_full", "critical_ratio")
FEWEST = 4


@dataclass(frozen=True)
class Comparison:
    """Configurations with both noises.

    Attributes:
        predicted, measured: Names of the definitions.
        points: Configurations, with the predicted noise.
        values: Measured noise per configuration, > 0.
        correlation: Spearman's rank correlation of the two.
    """

    predicted: str
    measured: str
    points: tuple[ConfigPoint, ...]
    values: tuple[float, ...]
    correlation: float


def compare_noises(trials: pa.Table, noise: str) -> Comparison | None:
    """Return the configurations with a predicted and a measured noise; None if fewer than `FEWEST` have both.

    Args:
        trials: The trials table.
        noise: The page's noise; if it is a measured one, `paper` takes its place.
    """
    from scipy.stats import spearmanr

    predicted = noise if NOISE[noise].kind == "predicted" else "paper"
    for name in (n for n in MEASURED if trials.column(f"noise_{n}").null_count < trials.num_rows):
        places = [p for p in group_configurations(trials, predicted, []) if p.ok and p.noise]
        level = {p.config: p.noise for p in group_configurations(trials, name, []) if p.ok and p.noise}
        both = [(p, value) for p in places if (value := level.get(p.config))]
        if len(both) >= FEWEST:
            values = [value for _, value in both]
            rank = float(spearmanr([p.noise for p, _ in both], values)[0])  # pyright: ignore[reportArgumentType]
            return Comparison(predicted, name, tuple(p for p, _ in both), tuple(values), rank)
    return None


def draw_comparison(comparison: Comparison) -> Chart:
    """Draw measured against predicted noise on log axes, coloured by augmentation strength."""
    figure = make_figure(showlegend=False)
    strengths = [p.knobs.get("augmentation_strength") for p in comparison.points]
    marker: dict[str, object] = {"size": 8}
    if len(set(strengths)) > 1:
        bar = {"title": {"text": "augmentation strength", "side": "right"}, "thickness": 12, "outlinewidth": 0}
        marker |= {"color": [round_to(s) for s in strengths], "colorscale": NOISE_SCALE, "colorbar": bar}
    figure.add_trace(
        make_markers(
            "configuration",
            _read_noises(comparison),
            comparison.values,
            [describe(p, "") for p in comparison.points],
            marker=marker,
        )
    )
    figure.update_xaxes(make_log_axis(_read_noises(comparison), _label(comparison.predicted)))
    figure.update_yaxes(make_log_axis(comparison.values, wrap_title(_label(comparison.measured)), most=6))
    title = f"Measured against predicted noise: rank correlation {shorten(comparison.correlation, 2)}"
    text = (
        f"Spearman's rank correlation over {pluralize(len(comparison.points), 'configuration')}. "
        f"{comparison.measured} is measured in the stable phase of training; {comparison.predicted} is known before it."
    )
    return Chart("measured", title, text, finish(figure))


def _read_noises(comparison: Comparison) -> Sequence[float]:
    return [p.noise or 0.0 for p in comparison.points]


def _label(name: str) -> str:
    scale = NOISE[name]
    return add_unit(f"{scale.kind} noise {scale.formula}", scale.unit)


def read_trunk_ratios(trials: pa.Table) -> dict[str, float]:
    """Return configuration -> noise of the trunk over that of the children; empty if all trunks have the same noise."""
    ratios = dict(zip(trials.column("config").to_pylist(), read_floats(trials, "trunk_noise_ratio"), strict=True))
    known = {config: float(ratio) for config, ratio in ratios.items() if ratio > 0}
    return known if any(abs(ratio - 1) > 1e-6 for ratio in known.values()) else {}


def draw_trunk_noise(
    points: Sequence[ConfigPoint], ratios: Mapping[str, float], measure: Measure, noise_label: str
) -> Chart | None:
    """Draw the noise of the children against that of the trunk on log axes, coloured by a score.

    Args:
        points: Configurations.
        ratios: As `read_trunk_ratios` returns.
        measure: The score.
        noise_label: Label of the noise.
    """
    shown = [p for p in points if p.noise and p.config in ratios and measure.column in p.values]
    if not shown:
        return None
    scores = [p.values[measure.column].mean for p in shown]
    children = [p.noise or 0.0 for p in shown]
    trunks = [noise * ratios[p.config] for noise, p in zip(children, shown, strict=True)]
    scale = QuantileScale.of(np.array(scores, dtype=float))
    figure = make_figure(showlegend=False, coloraxis=scale.make_axis(measure.label))
    texts = [f"{describe(p, measure.column)}<br>trunk noise {shorten(t)}" for p, t in zip(shown, trunks, strict=True)]
    colours = {
        "size": 11,
        "color": [float(s) for s in scale.share(np.array(scores, dtype=float))],
        "coloraxis": "coloraxis",
    }
    figure.add_trace(make_markers("configuration", trunks, children, texts, marker=colours))
    figure.update_xaxes(make_log_axis(trunks, f"trunk: {noise_label}"))
    figure.update_yaxes(make_log_axis(children, f"children: {noise_label}"))
    text = (
        "If the score changes along the horizontal axis, the noise before the branch counts: it selects the basin. "
        "If it changes along the vertical one, the noise after the branch does: it shapes the way inside."
    )
    return Chart("trunk", "Noise of the trunk and of the children", text, finish(figure))
