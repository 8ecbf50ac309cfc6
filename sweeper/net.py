"""Helpers of HTTP clients and servers: bearer token, loopback check, short reasons of errors, limit of connections."""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from requests import PreparedRequest

CONNECT_SECONDS = 5.0
MOST_DESCRIPTORS = 1 << 16
"""No server needs more descriptors than this."""
# a name or an address with an optional port, without the other parts of a URL
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{0,5})?")


class Bearer:
    """Authentication that sets the token on requests and keeps `requests` from reading .netrc."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """Set the token on a request."""
        if self.text:
            request.headers["Authorization"] = f"Bearer {self.text}"
        return request


def is_loopback(host: str) -> bool:
    """Return whether a name or an address, without a port, is a loopback one."""
    try:
        address = ip_address(host)
    except ValueError:
        name = host.lower()
        return name in ("localhost", "ip6-localhost") or name.endswith(".localhost")
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None  # ::ffff:127.0.0.1
    return (mapped or address).is_loopback


def is_loopback_name(host: str) -> bool:
    """Return whether a Host header names a loopback host, with or without a port."""
    match = _HOST.fullmatch(host)
    return match is not None and is_loopback(match[1] or match[2])


def reason(error: BaseException) -> str:
    """Return the innermost reason under the layers of the HTTP client."""
    while True:
        inner = getattr(error, "reason", None)
        inner = inner if isinstance(inner, BaseException) else error.__cause__ or next(
            (a for a in error.args if isinstance(a, BaseException)), None
        )  # fmt: skip
        if inner is None or inner is error:
            return clean_line(getattr(error, "strerror", None) or str(error) or type(error).__name__)
        error = inner


def clean_line(text: str, most: int = 300) -> str:
    """Return text of another machine as one printable line."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())[:most]


def raise_limit() -> int:
    """Raise the limit of file descriptors as far as this process may, and return it."""
    import resource  # Windows, where a client may run, has none

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            return soft  # some systems allow fewer than they say
        return wanted
    return MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
