"""What the clients of HTTP servers share: a token that is never shown, and the reason of a failure in a few words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from requests import PreparedRequest

CONNECT_SECONDS = 5.0


class Bearer:
    """Sets the token on each request; given like this, requests asks no .netrc instead."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """Set the token on a request."""
        if self.text:
            request.headers["Authorization"] = f"Bearer {self.text}"
        return request


def reason(error: BaseException) -> str:
    """Return the innermost reason that the layers of the HTTP client wrap."""
    while True:
        inner = getattr(error, "reason", None)
        inner = inner if isinstance(inner, BaseException) else error.__cause__ or next(
            (a for a in error.args if isinstance(a, BaseException)), None
        )  # fmt: skip
        if inner is None or inner is error:
            return line(getattr(error, "strerror", None) or str(error) or type(error).__name__)
        error = inner


def line(text: str, most: int = 300) -> str:
    """Return text of another machine as one line that a terminal may show."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())[:most]
