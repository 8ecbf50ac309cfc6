"""Measured against predicted noise: did what was known before training order what training then showed?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from dashboards.charts.axes import NOISE_SCALE, log_axis, rounded, short, wrapped
from dashboards.charts.chart import Chart, describe, figure, finish, markers
from dashboards.data.configurations import ConfigPoint, config_points
from trainables.noise import NOISE

# the first that was measured: the paper's own, and the one that every optimizer has
MEASURED = ("paper_full", "critical_ratio")
FEWEST = 4


@dataclass(frozen=True)
class Comparison:
    """Configurations with both noises.

    Attributes:
        predicted, measured: Names of the definitions.
        points: Configurations, placed at the predicted noise.
        values: Measured noise of each, > 0.
        correlation: Spearman's rank correlation of the two.
    """

    predicted: str
    measured: str
    points: tuple[ConfigPoint, ...]
    values: tuple[float, ...]
    correlation: float


def compare(trials: pa.Table, noise: str) -> Comparison | None:
    """Return the configurations with a predicted and a measured noise; None where fewer than four have both.

    Args:
        trials: The trials table.
        noise: The noise that the page shows; `paper` is compared where this one is measured itself.
    """
    from scipy.stats import spearmanr

    predicted = noise if NOISE[noise].kind == "predicted" else "paper"
    for name in (n for n in MEASURED if trials.column(f"noise_{n}").null_count < trials.num_rows):
        places = [p for p in config_points(trials, predicted, []) if p.ok and p.noise]
        level = {p.config: p.noise for p in config_points(trials, name, []) if p.ok and p.noise}
        both = [(p, value) for p in places if (value := level.get(p.config))]
        if len(both) >= FEWEST:
            values = [value for _, value in both]
            rank = float(spearmanr([p.noise for p, _ in both], values)[0])  # pyright: ignore[reportArgumentType]
            return Comparison(predicted, name, tuple(p for p, _ in both), tuple(values), rank)
    return None


def measured_chart(found: Comparison) -> Chart:
    """Draw measured against predicted noise, both logarithmic, coloured by the strength of augmentation."""
    shown = figure(showlegend=False)
    strengths = [p.knobs.get("augmentation_strength") for p in found.points]
    marker: dict[str, object] = {"size": 8}
    if len(set(strengths)) > 1:
        bar = {"title": {"text": "augmentation strength [1]", "side": "right"}, "thickness": 12, "outlinewidth": 0}
        marker |= {"color": [rounded(s) for s in strengths], "colorscale": NOISE_SCALE, "colorbar": bar}
    shown.add_trace(
        markers("configuration", _noises(found), found.values, [describe(p, "") for p in found.points], marker=marker)
    )
    shown.update_xaxes(log_axis(_noises(found), _label(found.predicted)))
    shown.update_yaxes(log_axis(found.values, wrapped(_label(found.measured)), most=6))
    title = f"Measured against predicted noise: rank correlation {short(found.correlation, 2)}"
    text = (
        f"Spearman's rank correlation over {len(found.points)} configurations. {found.measured} is measured in the "
        f"stable phase of training, {found.predicted} known before it."
    )
    return Chart("measured", title, text, finish(shown))


def _noises(found: Comparison) -> Sequence[float]:
    return [p.noise or 0.0 for p in found.points]


def _label(name: str) -> str:
    scale = NOISE[name]
    return f"{scale.kind} noise {scale.formula} [{scale.unit}]"
