"""Figures of two noises: measured against predicted, trunk against children, and child A against child B."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from dashboards.charts.axes import break_before_unit, make_log_axis, place_ticks, round_to, shorten, wrap_title
from dashboards.charts.chart import Chart, Measure, describe, finish, make_figure, make_markers
from dashboards.charts.colours import NOISE_SCALE, QuantileScale
from dashboards.charts.theme import GREY, fade
from dashboards.data.configurations import Array, ConfigPoint, group_configurations, read_floats
from sweeper.formatting import add_unit, pluralize
from trainables.noise import NOISE

# in order of preference: the paper's definition, and one that every optimizer has
MEASURED = ("paper_full", "critical_ratio")
FEWEST = 4
# levels of an axis of a map that are drawn as they are; more of them go into bins
MOST_LEVELS, MOST_BINS = 8, 8


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


def choose_predicted(noise: str) -> str:
    """Return the noise, or `paper` in place of a measured or fitted one."""
    return noise if NOISE[noise].kind == "predicted" else "paper"


def compare_noises(trials: pa.Table, noise: str) -> Comparison | None:
    """Return the configurations with a predicted and a measured noise; None if fewer than `FEWEST` have both.

    Args:
        trials: The trials table.
        noise: The page's noise; if it is a measured one, `paper` takes its place.
    """
    from scipy.stats import spearmanr

    predicted = choose_predicted(noise)
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


@dataclass(frozen=True)
class OtherNoise:
    """A second noise of a trial, with its own learning rate or batch size.

    Attributes:
        field: Field of the trial's spec with these settings.
        ratio: Column of the trials table with its η/B relative to the trial's.
    """

    field: str
    ratio: str

    def read_factors(self, trials: pa.Table, noise: str) -> dict[str, float]:
        """Return configuration -> this noise over the trial's; empty if it is the trial's everywhere.

        Args:
            trials: The trials table.
            noise: Name of a predicted definition.
        """
        ratios = read_floats(trials, self.ratio)
        if not np.any(np.abs(ratios - 1) > 1e-6):
            return {}
        rows = trials.select(["config", "spec", "learning_rate", "batch_size", "members", "protocol"]).to_pylist()
        factors: dict[str, float] = {}
        for row, ratio in zip(rows, ratios, strict=True):
            if math.isfinite(ratio):
                own = json.loads(row["spec"]).get(self.field) or {}
                factors[row["config"]] = NOISE[noise].compare(row, own)
            elif self.field == "child_b" and row["members"] == 2:
                factors[row["config"]] = 1.0
        return factors if any(abs(f - 1) > 1e-6 for f in factors.values()) else {}


TRUNK = OtherNoise("trunk", "trunk_noise_ratio")
CHILD_B = OtherNoise("child_b", "child_noise_ratio")


@dataclass(frozen=True)
class NoisePair:
    """Both noises of a configuration: places on the horizontal and the vertical axis of a map."""

    x: float
    y: float
    point: ConfigPoint


def pair_with_trunk(points: Sequence[ConfigPoint], factors: Mapping[str, float]) -> list[NoisePair]:
    """Return noises of trunk (x) and children (y) of the configurations with both."""
    return [NoisePair(p.noise * factors[p.config], p.noise, p) for p in points if p.noise and p.config in factors]


def pair_children(points: Sequence[ConfigPoint], factors: Mapping[str, float]) -> list[NoisePair]:
    """Return noises of child A (x) and child B (y); empty unless each of the two takes two values or more."""
    pairs = [NoisePair(p.noise, p.noise * factors[p.config], p) for p in points if p.noise and p.config in factors]
    return pairs if min(len(_list_levels([getattr(p, axis) for p in pairs])) for axis in "xy") > 1 else []


@dataclass(frozen=True)
class _Cells:
    """The axis of a map: edges of its cells and ticks, as decadic logarithms of the noise."""

    edges: Array
    ticks: Sequence[float]
    texts: Sequence[str]

    @classmethod
    def of(cls, noises: Sequence[float], bins: int) -> _Cells:
        """Return a cell per level, or `bins` equal ones if there are more levels than `MOST_LEVELS`."""
        levels = np.log10(_list_levels(noises))
        if len(levels) > MOST_LEVELS:
            ticks, texts = place_ticks(10 ** float(levels[0]), 10 ** float(levels[-1]), most=5)
            wide = 1e-6 * (levels[-1] - levels[0])
            return cls(np.linspace(levels[0] - wide, levels[-1] + wide, bins + 1), np.log10(ticks).tolist(), texts)
        middles = (levels[1:] + levels[:-1]) / 2
        first, last = (middles[0], middles[-1]) if len(middles) else (levels[0] - 0.15, levels[0] + 0.15)
        edges = np.array([2 * levels[0] - first, *middles, 2 * levels[-1] - last])
        texts = next(t for d in (2, 3, 6) if len(set(t := [shorten(10**v, d) for v in levels.tolist()])) == len(levels))
        return cls(edges, levels.tolist(), texts)

    @property
    def by_level(self) -> bool:
        """Whether each cell is one noise, not a bin."""
        return len(self.ticks) == len(self.edges) - 1

    def place(self, noise: float) -> int:
        """Return the cell of a noise."""
        return int(np.searchsorted(self.edges, math.log10(noise)) - 1)

    def make_axis(self, title: str) -> dict[str, Any]:
        """Return Plotly's settings of the axis."""
        ends = [round_to(float(v)) for v in self.edges[[0, -1]]]
        ticks = {"tickvals": [round_to(v) for v in self.ticks], "ticktext": list(self.texts)}
        return {**ticks, "range": ends, "showgrid": False, "tickfont": {"size": 11}, "title": {"text": title}}

    def describe(self, cell: int) -> str:
        """Return the noises of a cell as text."""
        if self.by_level:
            return self.texts[cell]
        return " to ".join(shorten(10 ** float(v)) for v in self.edges[cell : cell + 2])


def _list_levels(noises: Sequence[float]) -> list[float]:
    """Return the different noises, ascending; those within a rounding error are one."""
    return sorted({float(f"{v:.6g}") for v in noises})


@dataclass(frozen=True)
class NoiseMap:
    """Words of a map: key and title of the chart, titles of its axes, and what it tells."""

    key: str
    title: str
    x: str
    y: str
    meaning: str


TRUNK_MAP = NoiseMap(
    "trunk",
    "Noise of the trunk and of the children",
    "trunk",
    "children",
    "If the score changes along the horizontal axis, the noise before the branch counts: it selects the basin. "
    "If it changes along the vertical one, the noise after the branch does: it shapes the way inside.",
)
CHILDREN_MAP = NoiseMap(
    "children",
    "Noise of child A and of child B",
    "child A",
    "child B",
    "If unequal children merged better, the best cells would have unequal noises.",
)


def draw_map(pairs: Sequence[NoisePair], measure: Measure, noise_label: str, words: NoiseMap) -> Chart | None:
    """Draw a score over two noises as a map: a cell shows the mean of its viable pairs and their number.

    Args:
        pairs: Configurations with both noises.
        measure: The score.
        noise_label: Label of the noise.
        words: What the two noises are.
    """
    if not any(measure.column in p.point.values for p in pairs):
        return None
    bins = min(MOST_BINS, max(2, round(math.sqrt(len(pairs)))))
    x, y = _Cells.of([p.x for p in pairs], bins), _Cells.of([p.y for p in pairs], bins)
    size = (len(y.edges) - 1, len(x.edges) - 1)
    tried, viable, total = np.zeros(size), np.zeros(size), np.zeros(size)
    for pair in pairs:
        at = y.place(pair.y), x.place(pair.x)
        tried[at] += sum(pair.point.outcomes.values())
        if (score := pair.point.values.get(measure.column)) is not None:
            viable[at] += score.n
            total[at] += score.n * score.mean
    means = np.divide(total, viable, out=np.full(size, np.nan), where=viable > 0)
    scale = QuantileScale.of(means.ravel())
    bar = scale.make_axis(measure.label)
    figure = make_figure(showlegend=False, coloraxis=bar | {"colorbar": bar["colorbar"] | {"len": 0.9}})
    figure.update_layout(margin={"t": 60})
    edges = {"x": _round_all(x.edges), "y": _round_all(y.edges)}
    hover = [
        [_describe_cell(words, x.describe(j), y.describe(i), measure, means[i, j], int(viable[i, j]), int(tried[i, j]))
         for j in range(size[1])] for i in range(size[0])
    ]  # fmt: skip
    cells = {**edges, "type": "heatmap", "hovertext": hover, "hovertemplate": "%{hovertext}<extra></extra>",
             "xgap": 1, "ygap": 1, "hoverongaps": False}  # fmt: skip
    empty = np.where(viable > 0, np.nan, 0.0)
    faint = [[0, fade(GREY, 0.15)], [1, fade(GREY, 0.15)]]
    figure.add_trace({**cells, "name": "no viable pair", "z": _blank(empty), "colorscale": faint, "showscale": False})
    shares = scale.share(means)
    figure.add_trace({**cells, "name": "mean", "z": _blank(shares), "coloraxis": "coloraxis"})
    outlined = _mark_equal(figure, x, y)
    roomy = max(size) <= MOST_LEVELS - 2
    for name, colour, shown in (("pairs", "#000000", viable > 0), ("not viable", None, (viable == 0) & (tried > 0))):
        rows, columns = np.nonzero(shown)
        texts = [
            f"0 of {tried[i, j]:g}" if not viable[i, j] else f"{viable[i, j]:g}" if not roomy
            else f"{_write_score(measure, means[i, j])}<br>n = {viable[i, j]:g}"
            for i, j in zip(rows, columns, strict=True)
        ]  # fmt: skip
        middle = [((e[1:] + e[:-1]) / 2)[k] for e, k in ((x.edges, columns), (y.edges, rows))]
        font = {"size": 10.5} | ({"color": colour} if colour else {})
        place = {"x": _round_all(middle[0]), "y": _round_all(middle[1]), "text": texts}
        figure.add_scatter(**place, mode="text", name=name, textfont=font, hoverinfo="skip")
    figure.update_xaxes(x.make_axis(break_before_unit(f"{words.x}: {noise_label}")))
    figure.update_yaxes(y.make_axis(wrap_title(f"{words.y}: {noise_label}")))
    equal = "In outlined cells" if outlined else "On the dotted line"
    text = (
        f"Each cell{'' if x.by_level and y.by_level else ', a bin of noises,'} is the mean over its viable pairs"
        f"{'' if roomy else '; the number counts them'}. {equal} both noises are equal. "
        f"Faded cells have no viable pair. {words.meaning}"
    )
    return Chart(words.key, words.title, text, finish(figure), height=480)


def _blank(values: Array) -> list[list[float | None]]:
    return [[round_to(v, 4) for v in row] for row in values.tolist()]


def _round_all(values: Array) -> list[float | None]:
    return [round_to(v) for v in values.tolist()]


def _write_score(measure: Measure, value: float) -> str:
    return f"{value:.1%}" if measure.share else shorten(value)


def _describe_cell(words: NoiseMap, x: str, y: str, measure: Measure, mean: float, viable: int, tried: int) -> str:
    places = f"{words.x}: noise {x}<br>{words.y}: noise {y}"
    if viable:
        return f"{places}<br>{_write_score(measure, mean)}, mean of {pluralize(viable, 'viable pair')} of {tried}"
    return f"{places}<br>{pluralize(tried, 'pair')}, none of them viable" if tried else f"{places}<br>no pair"


def _mark_equal(figure: Any, x: _Cells, y: _Cells) -> bool:
    """Outline the cells of equal noises, or draw the line of equal noises if no cell has them; return which."""
    equal = [(i, j) for i, v in enumerate(y.ticks) for j, u in enumerate(x.ticks) if abs(u - v) < 1e-6]
    outlined = x.by_level and y.by_level and bool(equal)
    xs, ys = list[float | None](), list[float | None]()
    if outlined:
        for i, j in equal:
            (left, right), (low, high) = x.edges[j : j + 2], y.edges[i : i + 2]
            xs += [left, right, right, left, left, None]
            ys += [low, low, high, high, low, None]
    else:
        low, high = max(x.edges[0], y.edges[0]), min(x.edges[-1], y.edges[-1])
        xs, ys = ([low, high],) * 2 if low < high else ([], [])
    places = {"x": [round_to(v) for v in xs], "y": [round_to(v) for v in ys]}
    # dark under light, so that it shows on every cell and on both cards
    for line in ({"color": "#1c2330", "width": 3.5}, {"color": "#ffffff", "width": 1.5, "dash": "dot"}):
        figure.add_scatter(**places, mode="lines", name="equal noises", line=line, hoverinfo="skip")
    return outlined
