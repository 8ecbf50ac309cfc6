"""What a reader has chosen to see. All of it stands in the page's address, so that a view can be shared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from urllib.parse import parse_qsl, urlencode


@dataclass(frozen=True)
class Selection:
    """The choices of a reader; an empty text means the sweep's own or the view's default.

    Attributes:
        tab: Name of the view.
        run: Names of the runs to show, joined by commas; empty shows the first, or a service's list.
        noise: Definition of the noise.
        metric: What is drawn against the noise: an objective, or another measure of the view.
        split: `train`, `val` or `test`.
        colour: What colours the points: a knob, the outcome, the run, ...
        batch_size: The reader's own batch size, for recommended settings.
        sharpness: Measure of the parents' sharpness in the landscape.
        trial: Digest of the trial whose details are open.
        filter: The trials table's filter, as JSON.
        sort: The trials table's order, as JSON.
        state: Of a service's list: the state of the sweeps to list, or a group of states.
        owner: Of a service's list: whose sweeps to list.
        before: Of a service's list: the sweep whose elders to list.
    """

    tab: str = "overview"
    run: str = ""
    noise: str = ""
    metric: str = ""
    split: str = ""
    colour: str = ""
    batch_size: str = ""
    sharpness: str = ""
    trial: str = ""
    filter: str = ""
    sort: str = ""
    state: str = ""
    owner: str = ""
    before: str = ""

    @classmethod
    def from_query(cls, query: str) -> Selection:
        """Read a selection from an address's query, with or without its question mark; unknown keys are ignored."""
        names = {f.name for f in fields(cls)}
        # what no database takes is nobody's choice
        known = {k: v for k, v in parse_qsl(query.removeprefix("?")) if k in names and "\0" not in v}
        return cls(**{k: v.encode(errors="replace").decode() for k, v in known.items()})

    def to_query(self) -> str:
        """Return it as an address's query with its question mark; what is at its default is left out."""
        changed: Mapping[str, str] = {f.name: v for f in fields(self) if (v := str(getattr(self, f.name))) != f.default}
        return f"?{urlencode(changed)}" if changed else ""
