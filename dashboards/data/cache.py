"""Cache of results by the content of a run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import wraps
from threading import Lock
from typing import Any, TypeVar

from dashboards.data.runs import Run

T = TypeVar("T")
KEPT = 48


def cache_by_content(function: Callable[..., T]) -> Callable[..., T]:
    """Return `function(run, *rest)` with a cache of `KEPT` results; the key is the run's content and `rest`.

    Two threads may compute the same result at once, but never share an incomplete one.
    """
    kept: OrderedDict[tuple[Hashable, ...], Any] = OrderedDict()
    lock = Lock()

    @wraps(function)
    def call(run: Run, *rest: Hashable) -> T:
        key = (run.key, *rest)
        with lock:
            if key in kept:
                kept.move_to_end(key)
                return kept[key]
        result = function(run, *rest)
        with lock:
            kept[key] = result
            while len(kept) > KEPT:
                kept.popitem(last=False)
        return result

    return call
