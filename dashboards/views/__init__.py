"""The tabs, in the order of the page."""

from collections.abc import Mapping

from ..sections import View
from . import overview, trials

VIEWS: Mapping[str, View] = {view.name: view for view in (overview.VIEW, trials.VIEW)}
