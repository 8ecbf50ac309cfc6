"""Answers packed for the way over a network."""

from __future__ import annotations

import gzip

import flask

from sweeper.net import is_loopback

_PACKED = 2000
"""Bytes from which packing is worth its while."""


def packed(response: flask.Response) -> flask.Response:
    """Return a response packed where that is worth its while."""
    # over a network bytes cost more than packing them; on this machine it is the other way round
    asked = "gzip" in flask.request.headers.get("Accept-Encoding", "")
    if not asked or is_loopback(flask.request.remote_addr or "") or response.headers.get("Content-Encoding"):
        return response
    response.direct_passthrough = False
    data = response.get_data()
    if len(data) < _PACKED:
        return response
    response.set_data(gzip.compress(data, 4))
    response.headers["Content-Encoding"] = "gzip"
    response.headers.add("Vary", "Accept-Encoding")
    return response
