"""RefusedError: an error with the HTTP status that it has."""

from __future__ import annotations

from collections.abc import Mapping

from sweeper.errors import SpecError


class RefusedError(SpecError):
    """A request that is not answered as asked, in one sentence.

    Attributes:
        status: The response's.
        headers: Further ones of the response.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.headers = status, dict(headers or {})


def forbidden(detail: str) -> RefusedError:
    """Return the refusal of what is asked without the right to it."""
    return RefusedError(403, detail)


def reads_only() -> RefusedError:
    """Return the refusal of what a viewer's token cannot do."""
    return forbidden("a viewer's token only reads: ask for one with the role submitter")
