"""The best merge beside its parents: a row of the trials table in, numbers, tiles and a figure out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dashboards.charts.axes import rounded, short
from dashboards.charts.chart import Chart, figure, finish
from dashboards.charts.theme import BLUE, GREEN, GREY, ORANGE
from dashboards.data.configurations import finite
from dashboards.text.best import percent
from dashboards.views.section import Tile
from sweeper.formatting import merge_words, pluralize

WHO = {
    "a": "parent A",
    "b": "parent B",
    "merged": "linear, α = ½",
    "ensemble": "ensemble of the parents",
    "chosen": "chosen merge",
}
_COLOURS = {"a": GREY, "b": GREY, "merged": BLUE, "ensemble": ORANGE, "chosen": GREEN}


@dataclass(frozen=True)
class Scored:
    """Test scores of the winner, its parents and what they are compared with.

    Attributes:
        digest: The trial.
        merge: The chosen merge in words, empty where none was chosen.
        repeats: Of its configuration.
        loss: Key in `WHO` -> test loss [nat], None where it was not measured.
        accuracy: Key in `WHO` -> test accuracy.
    """

    digest: str
    merge: str
    repeats: int
    loss: Mapping[str, float | None]
    accuracy: Mapping[str, float | None]


def scored(best: Mapping[str, Any] | None) -> Scored | None:
    """Return the scores of a winner as `sweeper.analysis.best.winner` yields it; None where nothing has won."""
    if best is None:
        return None
    merge = merge_words(best["chosen_merge"], best["chosen_coefficient"]) if best["chosen_merge"] else ""
    return Scored(
        digest=best["digest"],
        merge=merge,
        repeats=best["config_repeats"],
        loss={who: finite(best[f"{who}_loss_test"]) for who in WHO},
        accuracy={who: finite(best[f"{who}_accuracy_test"]) for who in WHO},
    )


def best_tiles(best: Scored | None) -> tuple[Tile, ...]:
    """Return test loss and accuracy of the best merge, with those of its parents as context."""
    tiles: list[Tile] = []
    for what, text, unit in (("loss", short, "nat"), ("accuracy", percent, "")):
        title = f"Best merge, test {what}"
        scores = getattr(best, what) if best else {}
        value = scores.get("chosen", None) if scores.get("chosen") is not None else scores.get("merged")
        if best is None or value is None:
            tiles.append(Tile(title, "–", "no viable merge so far"))
            continue
        context = f"parents {text(scores['a'])} and {text(scores['b'])}"
        context += f", ensemble {text(scores['ensemble'])}" if scores["ensemble"] is not None else ""
        tiles.append(Tile(title, text(value), context, unit))
    return tuple(tiles)


def parents_chart(best: Scored) -> Chart:
    """Draw test loss and accuracy of the best merge beside its parents, one line each."""
    shown = figure(showlegend=False)
    shown.set_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.06)
    for place, (scores, scale) in enumerate(((best.loss, 1.0), (best.accuracy, 100.0)), start=1):
        known = [who for who in WHO if scores[who] is not None]
        values = [rounded(scale * (scores[who] or 0.0)) for who in known]
        shown.add_scatter(
            x=values,
            y=[WHO[who] for who in known],
            mode="markers+text",
            text=[short(v, 4) for v in values],
            textposition="top center",
            cliponaxis=False,
            marker={"size": 13, "color": [_COLOURS[who] for who in known]},
            hovertemplate="%{y}: %{x:.5g}<extra></extra>",
            row=1,
            col=place,
        )
        if values:
            # room for the numbers above the first and the last point
            low, high = min(v or 0.0 for v in values), max(v or 0.0 for v in values)
            room = 0.25 * (high - low) or 0.05 * abs(high) or 1.0
            shown.update_xaxes(range=[low - room, high + room], row=1, col=place)
    shown.update_xaxes(title={"text": "test loss [nat]"}, nticks=5, col=1)
    shown.update_xaxes(title={"text": "test accuracy [%]"}, nticks=5, col=2)
    order = [words for who, words in WHO.items() if any(s[who] is not None for s in (best.loss, best.accuracy))][::-1]
    shown.update_yaxes(categoryorder="array", categoryarray=order, range=[-0.5, len(order) - 0.35], ticklen=0)
    words = f"Trial {best.digest}" + (f": {best.merge}, chosen on validation" if best.merge else "")
    words += f", the best of {pluralize(best.repeats, 'repeat')}" if best.repeats > 1 else ""
    return Chart(
        "parents", "The best merge beside its parents", f"{words}; scores are of the test split.", finish(shown)
    )
