"""One figure of a run's page, for notebooks."""

from __future__ import annotations

import plotly.graph_objects as go

from dashboards.charts.theme import LIGHT
from dashboards.data.selection import Selection
from dashboards.page.page import read_run
from dashboards.views import VIEWS, overview
from dashboards.views.verdicts import judge
from sweeper.errors import SpecError
from trainables.registry import unknown


def draw_figure(place: str, view: str, chart: str = "", noise: str | None = None) -> go.Figure:
    """Return a figure of a run folder's page in the light theme.

    Args:
        place: Path or URI of the run folder.
        view: Name of a tab.
        chart: Key of a figure of the tab; its first one by default.
        noise: Noise to show; the sweep's by default.

    Raises:
        SpecError: There is no such tab or figure, or the place cannot be read.
    """
    if view not in VIEWS:
        raise SpecError(str(unknown("view", view, VIEWS)))
    run = read_run(place, noise)
    if (question := overview.choose_question(run, Selection())) is not None:
        judge(run, question)
    charts = {c.key: c for c in VIEWS[view].build(run, Selection()).every_chart}
    if not charts:
        raise SpecError(f"view {view!r} has no figure of this sweep: no trial has the numbers that it needs")
    if chart and chart not in charts:
        raise SpecError(str(unknown("figure", chart, charts)))
    drawn = charts[chart] if chart else next(iter(charts.values()))
    figure = go.Figure(drawn.figure)
    figure.update_layout(
        template={"layout": LIGHT["layout"]},
        title=drawn.title,
        height=drawn.height,
        paper_bgcolor="#ffffff",
        plot_bgcolor="#ffffff",
    )
    return figure
