"""Back-off: the pauses after failures, and calls that are repeated after them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from tenacity import RetryCallState

T = TypeVar("T")


@dataclass(frozen=True)
class Backoff:
    """Pauses that double from one failure to the next.

    Attributes:
        first, longest: Seconds.
    """

    first: float
    longest: float

    def pause(self, failures: int) -> float:
        """Return the seconds to wait after a number of consecutive failures, at least 1."""
        return min(self.longest, self.first * 2.0 ** min(failures - 1, 64))

    def random_pause(self, failures: int) -> float:
        """Return a pause with jitter: processes that fail together do not come back together."""
        return self.pause(failures) * random.uniform(0.5, 1.0)

    def call(
        self,
        do: Callable[[], T],
        is_passing: Callable[[BaseException], bool],
        is_over: Callable[[RetryCallState], bool],
        asked: Callable[[BaseException], float] = lambda _: 0.0,
    ) -> T:
        """Return what a function returns; call it again after each error that passes.

        Args:
            do: The function; a failed call changes nothing.
            is_passing: Whether a later call may succeed.
            is_over: Whether the last attempt was the final one.
            asked: Seconds to wait beside the pause, which the error names.

        Raises:
            BaseException: The error of the last attempt.
        """
        from tenacity import Retrying, retry_if_exception  # 50 ms

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome is not None else None
            return self.random_pause(state.attempt_number) + (asked(error) if error is not None else 0.0)

        return Retrying(retry=retry_if_exception(is_passing), wait=wait, stop=is_over, reraise=True)(do)
