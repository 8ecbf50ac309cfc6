"""The tabs, one per module; `VIEWS` lists them in the order of the page."""

from __future__ import annotations

from collections.abc import Mapping

from dashboards.views import collapse, decomposition, landscape, overview, search, trials
from dashboards.views.section import View

_ORDER = (overview.VIEW, collapse.VIEW, decomposition.VIEW, landscape.VIEW, search.VIEW, trials.VIEW)
VIEWS: Mapping[str, View] = {view.name: view for view in _ORDER}
