"""Compression of responses."""

from __future__ import annotations

import gzip

import flask

from sweeper.net import is_loopback

_SMALLEST = 2000
"""Smallest size to compress [bytes]."""


def compress_response(response: flask.Response) -> flask.Response:
    """Return the response, compressed if the client accepts it and the network is slower than compression."""
    # on this machine, compression takes longer than sending the bytes
    accepted = "gzip" in flask.request.headers.get("Accept-Encoding", "")
    if not accepted or is_loopback(flask.request.remote_addr or "") or response.headers.get("Content-Encoding"):
        return response
    response.direct_passthrough = False
    data = response.get_data()
    if len(data) < _SMALLEST:
        return response
    response.set_data(gzip.compress(data, 4))
    response.headers["Content-Encoding"] = "gzip"
    response.headers.add("Vary", "Accept-Encoding")
    return response
