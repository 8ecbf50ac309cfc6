"""The tabs, one module each; `VIEWS` has them in the order of the page."""

from __future__ import annotations

from collections.abc import Mapping

from ..sections import View
from . import collapse, decomposition, overview, trials

VIEWS: Mapping[str, View] = {v.name: v for v in (overview.VIEW, collapse.VIEW, decomposition.VIEW, trials.VIEW)}
