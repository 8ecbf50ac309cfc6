"""What the model of the noise sampler believes: a record in, a Plotly figure and a table out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import TYPE_CHECKING

from dashboards.charts.axes import log_axis, rounded, short
from dashboards.charts.chart import Chart, figure, finish
from dashboards.charts.theme import BLUE, GREEN, GREY
from sweeper.analysis.text import noise_share
from sweeper.formatting import name_knob

if TYPE_CHECKING:
    from sweeper.analysis.posterior import Posterior
    from sweeper.search.noise_sampler.explanation import Explanation


def per_decade(posterior: Sequence[tuple[float, float]]) -> list[float]:
    """Return the density over log10 of the noise of a probability on a grid of at least two noises, increasing."""
    places = [math.log10(noise) for noise, _ in posterior]
    gaps = [b - a for a, b in pairwise(places)]
    # a grid point stands for half of the gap on either side
    widths = [(a + b) / 2 for a, b in zip([gaps[0], *gaps], [*gaps, gaps[-1]], strict=True)]
    return [p / width for (_, p), width in zip(posterior, widths, strict=True)]


def posterior_chart(found: Explanation, noise_label: str) -> Chart:
    """Draw how probable each noise is to be the best one.

    Args:
        found: With a posterior on a grid of at least two noises.
        noise_label: Title of the noise axis.
    """
    noises, density = [noise for noise, _ in found.posterior], per_decade(found.posterior)
    top = 1.08 * max(density)
    shown = figure()
    shown.add_scatter(
        name="probability",
        x=[rounded(v) for v in noises],
        y=[rounded(v) for v in density],
        mode="lines",
        line={"color": BLUE, "width": 2},
        fill="tozeroy",
        fillcolor="rgba(0, 114, 178, 0.16)",
        hovertemplate="noise %{x:.3g}<br>%{y:.3g} a decade<extra></extra>",
    )
    if found.optimum_low is not None and found.optimum_high is not None:
        low, high = found.optimum_low, found.optimum_high
        shown.add_scatter(
            name="90 % interval",
            x=[low, low, high, high],
            y=[0, top, top, 0],
            fill="toself",
            fillcolor="rgba(0, 158, 115, 0.13)",
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
        )
    if found.optimum is not None:
        shown.add_scatter(
            name=f"best noise {short(found.optimum)}",
            x=[found.optimum] * 2,
            y=[0, top],
            mode="lines",
            line={"color": GREEN, "width": 2, "dash": "dash"},
            hoverinfo="skip",
        )
    shown.update_xaxes(log_axis(noises, noise_label))
    shown.update_yaxes(title={"text": "probability per decade"}, range=[0, top])
    return Chart("posterior", "Where the best noise is", posterior_words(found), finish(shown))


def posterior_words(found: Explanation) -> str:
    """Return the sentences on the model's best noise and on the share of the noise."""
    words = f"The model of {found.trials} configurations, whichever sampler proposed them"
    if found.optimum is not None:
        interval = f"90 % interval {short(found.optimum_low)} to {short(found.optimum_high)}"
        words += f": best noise {short(found.optimum)}, {interval}"
    share = noise_share(asdict(found), found.noise)
    return f"{words}. {share[0].upper()}{share[1:]}."


def exponents_chart(believed: Posterior) -> Chart:
    """Draw the fitted exponents with their 90 % intervals beside those of the definition.

    Args:
        believed: With an explanation that has exponents.
    """
    found = believed.explanation
    assert found is not None
    roles = list(found.exponents)
    names = [name_knob(role).quantity for role in roles]
    ends = [_interval(found, role) for role in roles]
    fitted = [found.exponents[role] for role in roles]
    texts = [f"{_signed(v)} ({_signed(e[0])} to {_signed(e[1])})" if e else "as given"
             for v, e in zip(fitted, ends, strict=True)]  # fmt: skip
    shown = figure()
    shown.add_scatter(
        name=f"definition {found.noise}",
        x=[rounded(believed.given.get(role, 0.0)) for role in roles],
        y=names,
        mode="markers",
        marker={"size": 14, "symbol": "line-ns-open", "color": GREY, "line": {"width": 3}},
        hovertemplate="definition %{x:.3g}<extra></extra>",
    )
    shown.add_scatter(
        name="fitted, with 90 % interval",
        x=[rounded(v) for v in fitted],
        y=names,
        mode="markers",
        text=texts,
        marker={"size": 9, "color": BLUE},
        error_x={
            "array": [rounded(e[1] - v) if e else 0 for v, e in zip(fitted, ends, strict=True)],
            "arrayminus": [rounded(v - e[0]) if e else 0 for v, e in zip(fitted, ends, strict=True)],
            "symmetric": False,
            "thickness": 1.5,
            "width": 4,
            "color": BLUE,
        },
        hovertemplate="fitted %{text}<extra></extra>",
    )
    low = min([*fitted, *believed.given.values(), *(e[0] for e in ends if e)])
    high = max([*fitted, *believed.given.values(), *(e[1] for e in ends if e)])
    room = 0.25 * ((high - low) or 1.0)
    shown.update_xaxes(range=[low - room, high + room])
    shown.update_xaxes(title={"text": "exponent of the factor in the noise [1]"})
    shown.update_yaxes(autorange="reversed")
    for v, name, text in zip(fitted, names, texts, strict=True):  # above the definition's mark, which may stand there
        shown.add_annotation(x=rounded(v), y=name, text=text, yshift=21, showarrow=False, font={"size": 12})
    shown.add_vline(x=0, line={"color": GREY, "width": 1}, layer="below")
    words = f"As the definition of {found.noise} has them, and as a single-index model of the trials fits them. An "
    words += "exponent without an interval is taken as given, or rests on too few configurations for one."
    return Chart("exponents", "Exponents of the noise", words, finish(shown), height=170 + 56 * len(roles))


def _signed(value: float) -> str:
    # as on the axes: a true minus, and none before a zero
    text = f"{value:.2f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def _interval(found: Explanation, role: str) -> tuple[float, float] | None:
    low, high = found.exponent_low.get(role), found.exponent_high.get(role)
    return None if low is None or high is None or low == high else (low, high)
