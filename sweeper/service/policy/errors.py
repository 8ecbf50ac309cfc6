"""RefusedError: an error with its HTTP status."""

from __future__ import annotations

from collections.abc import Mapping

from sweeper.errors import SpecError


class RefusedError(SpecError):
    """The service refuses a request; the message says why in one sentence.

    Attributes:
        status: HTTP status of the response.
        headers: Additional headers of the response.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.headers = status, dict(headers or {})


def forbidden(detail: str) -> RefusedError:
    """Return the refusal (403) of a request without the right to it."""
    return RefusedError(403, detail)


def reads_only() -> RefusedError:
    """Return the refusal (403) of a change by a viewer."""
    return forbidden("a viewer's token can only read: ask an admin for a token with the role submitter")
