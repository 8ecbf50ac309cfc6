"""Tiles and figure of the best merge and its parents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dashboards.charts.axes import round_to, shorten
from dashboards.charts.chart import Chart, finish, make_figure
from dashboards.charts.theme import BLUE, GREEN, GREY, ORANGE
from dashboards.data.configurations import to_finite
from dashboards.text.best import Cell, TextTable, format_percent
from dashboards.views.section import Tile
from sweeper.formatting import merge_words, per_token, pluralize
from trainables.result import TASKS

WHO = {
    "a": "parent A",
    "b": "parent B",
    "merged": "linear, α = ½",
    "ensemble": "ensemble of the parents",
    "chosen": "chosen merge",
}
_COLOURS = {"merged": BLUE, "ensemble": ORANGE, "chosen": GREEN}


@dataclass(frozen=True)
class BestScores:
    """Test scores of the winning merge, its parents and their ensemble.

    Attributes:
        digest: The trial.
        merge: Name of the chosen merge; empty without one.
        repeats: Number of repeats of its configuration.
        loss: Model -> test loss [nat]; None if not measured.
        accuracy: Model -> test accuracy; None if not measured.
        pairs: Number of fresh pairs whose means these are; 0 for the scores of a single trial.
        bytes_per_token: Bytes of text per token; None for images.
        names: Model -> its name; of several tasks every child is a model.
    """

    digest: str
    merge: str
    repeats: int
    loss: Mapping[str, float | None]
    accuracy: Mapping[str, float | None]
    pairs: int = 0
    bytes_per_token: float | None = None
    names: Mapping[str, str] = field(default_factory=lambda: WHO)

    @property
    def children(self) -> tuple[str, ...]:
        """The models that were merged: two parents, or the child of each task."""
        return tuple(who for who in self.names if who in TASKS)


def name_models(best: Mapping[str, Any]) -> dict[str, str]:
    """Return model -> its name: two parents, merges and ensemble, or the child of every task and merges."""
    tasks = [t for t in TASKS if best.get(f"chosen_normalised_accuracy_{t}_test") is not None]
    if not tasks:
        return dict(WHO)
    return {t: f"child {t.upper()}, on its task" for t in tasks} | {"merged": "linear", "chosen": WHO["chosen"]}


def read_scores(best: Mapping[str, Any] | None) -> BestScores | None:
    """Return the scores of a winner from `sweeper.analysis.best.choose_winner`; None without one."""
    if best is None:
        return None
    choice = best["chosen_merge"], best["chosen_coefficient"], best.get("chosen_window")
    merge = merge_words(*choice) if best["chosen_merge"] else ""
    confirmed = best.get("confirmed") or {}
    means = confirmed.get("scores", {})

    def score(who: str, what: str) -> float | None:
        # the scores of the best of several pairs would be those of the luckiest
        known = means.get(f"{who}_{what}")
        if who == "chosen" and means:  # every fresh pair chose a merge of its own
            return None
        return known["mean"] if known else to_finite(best[f"{who}_{what}_test"])

    names = name_models(best)
    return BestScores(
        digest=best["digest"],
        merge=merge,
        repeats=best["config_repeats"],
        loss={who: score(who, "loss") for who in names},
        accuracy={who: score(who, "accuracy") for who in names},
        pairs=confirmed.get("pairs", 0),
        bytes_per_token=to_finite(best.get("bytes_per_token")),
        names=names,
    )


def describe_source(best: BestScores) -> str:
    """Return which pairs the scores are of."""
    if best.pairs:
        return f"means of {pluralize(best.pairs, 'fresh pair')} that chose nothing"
    source = f"trial {best.digest}" + (f": {best.merge}, chosen on validation" if best.merge else "")
    return source + (f", the best of {pluralize(best.repeats, 'repeat')}" if best.repeats > 1 else "")


def make_tiles(best: BestScores | None) -> tuple[Tile, ...]:
    """Return tiles with test loss and accuracy of the best merge; the parents' scores are the context."""
    tiles: list[Tile] = []
    for what, text, unit in (("loss", shorten, "nat"), ("accuracy", format_percent, "")):
        title = f"Best merge, test {what}"
        scores = getattr(best, what) if best else {}
        value = scores.get("chosen", None) if scores.get("chosen") is not None else scores.get("merged")
        if best is None or value is None:
            tiles.append(Tile(title, "–", "no viable merge so far"))
            continue
        *first, last = (text(scores[child]) for child in best.children)
        context = f"{'parents' if 'ensemble' in best.names else 'children'} {', '.join(first)} and {last}"
        context += f", ensemble {text(scores['ensemble'])}" if scores.get("ensemble") is not None else ""
        tiles.append(Tile(title, text(value), context, unit))
    return tuple(tiles)


def make_scores_table(best: BestScores) -> TextTable:
    """Return test loss and accuracy of the merge, the mean parent and the ensemble, one row each."""
    rows: list[tuple[Cell, ...]] = []
    chosen = any(s.get("chosen") is not None for s in (best.loss, best.accuracy))
    models: dict[str, tuple[str, tuple[str, ...]]] = {
        "merged": (best.merge if chosen else best.names["merged"], ("chosen" if chosen else "merged",)),
        "parents": ("mean of both parents", best.children),
        "ensemble": (WHO["ensemble"], ("ensemble",)),
    }
    if "ensemble" not in best.names:
        own = {f"child {child.upper()}": (best.names[child], (child,)) for child in best.children}
        models = {"merged": models["merged"], **own, "children": ("mean of the children", best.children)}
    for name, (title, who) in models.items():
        loss, accuracy = (_average([scores.get(w) for w in who]) for scores in (best.loss, best.accuracy))
        if loss is not None or accuracy is not None:
            text = per_token(loss, best.bytes_per_token) or (None, None)
            more = [Cell(shorten(value)) for value in text] if best.bytes_per_token else []
            rows.append((Cell(name, title), Cell(shorten(loss)), Cell(format_percent(accuracy)), *more))
    head = (Cell(""), Cell("test loss", "nat"), Cell("test accuracy"))
    if best.bytes_per_token:
        head = (Cell(""), Cell("test loss", "nat per token"), *head[2:], Cell("perplexity"), Cell("bits per byte"))
    return TextTable(head, tuple(rows))


def _average(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def draw_scores(best: BestScores) -> Chart:
    """Draw test loss and accuracy of the best merge and its parents, one line per model."""
    figure = make_figure(showlegend=False)
    figure.set_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.06)
    for place, (scores, scale) in enumerate(((best.loss, 1.0), (best.accuracy, 100.0)), start=1):
        known = [who for who in best.names if scores[who] is not None]
        values = [round_to(scale * (scores[who] or 0.0)) for who in known]
        figure.add_scatter(
            x=values,
            y=[best.names[who] for who in known],
            mode="markers+text",
            text=[shorten(v, 4) for v in values],
            textposition="top center",
            cliponaxis=False,
            marker={"size": 13, "color": [_COLOURS.get(who, GREY) for who in known]},
            hovertemplate="%{y}: %{x:.5g}<extra></extra>",
            row=1,
            col=place,
        )
        if values:
            # room for the numbers above the first and the last point
            low, high = min(v or 0.0 for v in values), max(v or 0.0 for v in values)
            room = 0.25 * (high - low) or 0.05 * abs(high) or 1.0
            figure.update_xaxes(range=[low - room, high + room], row=1, col=place)
    figure.update_xaxes(title={"text": "test loss [nat]"}, nticks=5, col=1)
    figure.update_xaxes(title={"text": "test accuracy [%]"}, nticks=5, col=2)
    measured = {who for scores in (best.loss, best.accuracy) for who, value in scores.items() if value is not None}
    order = [label for who, label in best.names.items() if who in measured][::-1]
    figure.update_yaxes(categoryorder="array", categoryarray=order, range=[-0.5, len(order) - 0.35], ticklen=0)
    text = f"Test scores, {describe_source(best)}."
    return Chart("parents", "The best merge beside its parents", text, finish(figure), wide=True, folded=True)
