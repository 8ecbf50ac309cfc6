"""What the model of the noise sampler believes: a record in, a Plotly figure and a table out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from sweeper.report import FACTORS

from .axes import log_axis, rounded, short
from .best import Cell, TextTable
from .marks import Chart, figure, finish
from .theme import BLUE, GREEN, GREY

if TYPE_CHECKING:
    from sweeper.belief import Belief
    from sweeper.explanation import Explanation


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
    return f"{words}. {share(found)} of what it explains is noise."


def share(found: Explanation) -> str:
    """Return the share of the noise as per cent."""
    return f"{100 * found.variance_share:.0f} %"


def exponent_table(believed: Belief) -> TextTable:
    """Return the fitted exponents of the noise beside those of its definition; no rows without an explanation."""
    if believed.explanation is None or not believed.explanation.exponents:
        return TextTable((), ())
    found = believed.explanation
    head = (
        Cell("exponent of", "the factors of the noise: learning rate η, batch size B, momentum μ, weight decay λ"),
        Cell("definition", f"in the definition of noise {found.noise}"),
        Cell("fitted", "the mode of the posterior: the definition's unless the trials speak against it"),
        Cell("90 % interval", "of the posterior; one exponent is taken as given and sets the scale of the others"),
    )
    rows = [
        (
            Cell(FACTORS.get(role, role), role),
            Cell(f"{believed.given.get(role, 0.0):.2f}"),
            Cell(f"{fitted:.2f}"),
            Cell(_interval(role, found.exponent_low, found.exponent_high)),
        )
        for role, fitted in found.exponents.items()
    ]
    return TextTable(head, tuple(rows))


def exponents_chart(believed: Belief) -> Chart:
    """Draw the fitted exponents with their 90 % intervals beside those of the definition.

    Args:
        believed: With an explanation that has exponents.
    """
    found = believed.explanation
    assert found is not None
    roles = list(found.exponents)
    names = [FACTORS.get(role, role) for role in roles]
    fitted = [found.exponents[r] for r in roles]
    low, high = ({r: ends.get(r, found.exponents[r]) for r in roles} for ends in _ends(found))
    shown = figure()
    shown.add_scatter(
        name="definition",
        x=[rounded(believed.given.get(r, 0.0)) for r in roles],
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
        marker={"size": 9, "color": BLUE},
        error_x={
            "array": [rounded(high[r] - found.exponents[r]) for r in roles],
            "arrayminus": [rounded(found.exponents[r] - low[r]) for r in roles],
            "symmetric": False,
            "thickness": 1.5,
            "width": 4,
            "color": BLUE,
        },
        hovertemplate="fitted %{x:.3g}<extra></extra>",
    )
    shown.update_xaxes(title={"text": "exponent of the factor in the noise [1]"})
    shown.update_yaxes(autorange="reversed")
    shown.add_vline(x=0, line={"color": GREY, "width": 1}, layer="below")
    words = (
        f"As the definition of {found.noise} has them, and as the model of the trials fits them. An exponent without "
    )
    words += "an interval is taken as given and sets the scale of the others."
    return Chart("exponents-chart", "Exponents of the noise", words, finish(shown), height=170 + 44 * len(roles))


def _ends(found: Explanation) -> tuple[Mapping[str, float], Mapping[str, float]]:
    return found.exponent_low, found.exponent_high


def _interval(role: str, low: Mapping[str, float], high: Mapping[str, float]) -> str:
    if role not in low or low[role] == high[role]:
        return "as given"
    return f"{low[role]:.2f} to {high[role]:.2f}"
