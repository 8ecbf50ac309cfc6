"""Figures of the noise sampler's model: the posterior of the best noise and the fitted exponents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import TYPE_CHECKING

from dashboards.charts.axes import make_log_axis, round_to, shorten
from dashboards.charts.chart import Chart, finish, make_figure
from dashboards.charts.noise_fit import label_above
from dashboards.charts.theme import BLUE, GREEN, GREY, fade
from sweeper.analysis.text import count_fitted, noise_share

if TYPE_CHECKING:
    from sweeper.analysis.stages.noise_exponents import NoiseExponents
    from sweeper.search.noise_sampler.explanation import Explanation


ONE_OF_SEVERAL = (
    "This best noise is the model's, over all knobs at once; the one to use is the verdict's, on the overview"
)


def convert_density(posterior: Sequence[tuple[float, float]]) -> list[float]:
    """Return the density over log10 of the noise, from probabilities on an ascending grid of at least two noises."""
    places = [math.log10(noise) for noise, _ in posterior]
    gaps = [b - a for a, b in pairwise(places)]
    # a grid point covers half of the gap on either side
    widths = [(a + b) / 2 for a, b in zip([gaps[0], *gaps], [*gaps, gaps[-1]], strict=True)]
    return [p / width for (_, p), width in zip(posterior, widths, strict=True)]


def draw_posterior(explanation: Explanation, noise_label: str) -> Chart:
    """Draw the probability that a noise is the best.

    Args:
        explanation: Explanation with a posterior on at least two noises.
        noise_label: Title of the noise axis.
    """
    noises, density = [noise for noise, _ in explanation.posterior], convert_density(explanation.posterior)
    top = 1.08 * max(density)
    figure = make_figure()
    figure.add_scatter(
        name="probability",
        x=[round_to(v) for v in noises],
        y=[round_to(v) for v in density],
        mode="lines",
        line={"color": BLUE, "width": 2},
        fill="tozeroy",
        fillcolor=fade(BLUE, 0.16),
        hovertemplate="noise %{x:.3g}<br>%{y:.3g} per decade<extra></extra>",
    )
    if explanation.optimum_low is not None and explanation.optimum_high is not None:
        low, high = explanation.optimum_low, explanation.optimum_high
        figure.add_scatter(
            name="90 % interval",
            x=[low, low, high, high],
            y=[0, top, top, 0],
            fill="toself",
            fillcolor=fade(GREEN, 0.13),
            line={"width": 1, "color": GREEN, "dash": "dot"},
            mode="lines",
            hoverinfo="skip",
        )
    if explanation.optimum is not None:
        text = f"best noise {shorten(explanation.optimum)}"
        if explanation.optimum_low is not None:
            ends = f"{shorten(explanation.optimum_low)} to {shorten(explanation.optimum_high)}"
            text = f"<b>{text}</b><br>90 % interval {ends}"
        label_above(figure, explanation.optimum, noises, text)
        figure.add_scatter(
            name=f"best noise {shorten(explanation.optimum)}",
            x=[explanation.optimum] * 2,
            y=[0, top],
            mode="lines",
            line={"color": GREEN, "width": 2, "dash": "dash"},
            hoverinfo="skip",
        )
    figure.update_xaxes(make_log_axis(noises, noise_label))
    figure.update_yaxes(title={"text": "probability per decade"}, range=[0, top])
    return Chart("posterior", "Best noise by the search's model", describe_posterior(explanation), finish(figure))


def describe_posterior(explanation: Explanation) -> str:
    """Return sentences on the model's best noise and on the share of the noise."""
    words = f"Model of {count_fitted(asdict(explanation))} from any sampler"
    if explanation.optimum is not None:
        interval = f"90 % interval {shorten(explanation.optimum_low)} to {shorten(explanation.optimum_high)}"
        words += f": best noise {shorten(explanation.optimum)}, {interval}"
    words += f". {ONE_OF_SEVERAL}"
    share = noise_share(asdict(explanation), explanation.noise)
    return f"{words}. {share[0].upper()}{share[1:]}."


def draw_exponents(found: NoiseExponents, noise: str) -> Chart:
    """Draw the fitted exponents with their 90 % intervals beside those of the definition.

    Args:
        found: Exponents, at least one.
        noise: Name of the definition.
    """
    exponents = found.factors
    names = [e.factor for e in exponents]
    ends = [e.interval for e in exponents]
    fitted, given = [e.fitted for e in exponents], [e.given for e in exponents]
    defined = [v for v in given if v is not None]
    texts = [f"{_format_signed(v)} ({_format_signed(e[0])} to {_format_signed(e[1])})" if e else "as given"
             for v, e in zip(fitted, ends, strict=True)]  # fmt: skip
    figure = make_figure()
    figure.add_scatter(
        name=f"definition {noise}",
        x=[None if v is None else round_to(v) for v in given],
        y=names,
        mode="markers",
        marker={"size": 14, "symbol": "line-ns-open", "color": GREY, "line": {"width": 3}},
        hovertemplate="definition %{x:.3g}<extra></extra>",
    )
    figure.add_scatter(
        name="fitted, with 90 % interval",
        x=[round_to(v) for v in fitted],
        y=names,
        mode="markers",
        text=texts,
        marker={"size": 9, "color": BLUE},
        error_x={
            "array": [round_to(e[1] - v) if e else 0 for v, e in zip(fitted, ends, strict=True)],
            "arrayminus": [round_to(v - e[0]) if e else 0 for v, e in zip(fitted, ends, strict=True)],
            "symmetric": False,
            "thickness": 1.5,
            "width": 4,
            "color": BLUE,
        },
        hovertemplate="fitted %{text}<extra></extra>",
    )
    low = min([*fitted, *defined, *(e[0] for e in ends if e)])
    high = max([*fitted, *defined, *(e[1] for e in ends if e)])
    room = 0.25 * ((high - low) or 1.0)
    figure.update_xaxes(range=[low - room, high + room])
    figure.update_xaxes(title={"text": "exponent of the factor in the noise"})
    figure.update_yaxes(autorange="reversed")
    for v, name, text in zip(fitted, names, texts, strict=True):  # above the definition's mark
        figure.add_annotation(x=round_to(v), y=name, text=text, yshift=21, showarrow=False, font={"size": 12})
    figure.add_vline(x=0, line={"color": GREY, "width": 1}, layer="below")
    words = f"Exponents of the definition {noise}, and those fitted to the trials. {found.words} "
    words += "An exponent without an interval stays as defined."
    return Chart("exponents", "Exponents of the noise", words, finish(figure), height=170 + 56 * len(exponents))


def _format_signed(value: float) -> str:
    # as on the axes: a true minus sign, none before zero
    text = f"{value:.2f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")
