"""What is computed from a run is kept as long as its content stands."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import wraps
from threading import Lock
from typing import Any, TypeVar

from dashboards.data.runs import Run

T = TypeVar("T")
KEPT = 48


def by_content(function: Callable[..., T]) -> Callable[..., T]:
    """Keep the results of `function(run, *rest)` by the run's content and `rest`, the last `KEPT` ones.

    Two threads may compute the same result at once; they never share a half-made one.
    """
    kept: OrderedDict[tuple[Hashable, ...], Any] = OrderedDict()
    lock = Lock()

    @wraps(function)
    def cached(run: Run, *rest: Hashable) -> T:
        key = (run.key, *rest)
        with lock:
            if key in kept:
                kept.move_to_end(key)
                return kept[key]
        found = function(run, *rest)
        with lock:
            kept[key] = found
            while len(kept) > KEPT:
                kept.popitem(last=False)
        return found

    return cached
