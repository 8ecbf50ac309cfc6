"""The choices of a reader. The page's address holds them all, so that readers can share a view."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from urllib.parse import parse_qsl, urlencode


@dataclass(frozen=True)
class Selection:
    """The choices of a reader; an empty text means the sweep's setting or the view's default.

    Attributes:
        tab: Name of the view.
        run: Names of the runs, separated by commas; empty means the first run, or a service's list.
        noise: Definition of the noise.
        metric: Quantity against the noise: an objective, or another measure of the view.
        split: `train`, `val` or `test`.
        colour: Quantity that colours the points: a knob, the outcome, the run, ...
        batch_size: The reader's batch size, for recommended settings.
        sharpness: Measure of the parents' sharpness in the landscape.
        trial: Digest of the open trial.
        filter: Filter of the trials table, as JSON.
        sort: Order of the trials table, as JSON.
        state: State, or group of states, of the sweeps in a service's list.
        owner: Owner of the sweeps in a service's list.
        before: Id of a sweep: a service's list then shows older ones.
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
        """Return the selection of an address's query, with or without its question mark; unknown keys are ignored."""
        names = {f.name for f in fields(cls)}
        # no database accepts a NUL
        known = {k: v for k, v in parse_qsl(query.removeprefix("?")) if k in names and "\0" not in v}
        return cls(**{k: v.encode(errors="replace").decode() for k, v in known.items()})

    def to_query(self) -> str:
        """Return the query of an address with its question mark, without default values."""
        changed: Mapping[str, str] = {f.name: v for f in fields(self) if (v := str(getattr(self, f.name))) != f.default}
        return f"?{urlencode(changed)}" if changed else ""
