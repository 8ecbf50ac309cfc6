"""Metrics for Prometheus: requests, sweeps, trials, queue and processes."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from sqlalchemy import func, select
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sweeper.client.models import ACTIVE, State
from sweeper.service.db.sweeps import Catalog
from sweeper.service.db.tables import deliveries, landed

MEDIA = "text/plain; version=0.0.4; charset=utf-8"
_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """The metrics of one service, in a separate registry.

    Args:
        catalog: Its sweeps.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.catalog, self.registry = catalog, CollectorRegistry()
        labels = ("route", "method", "status")
        self.requests = Counter("sweeper_requests", "Requests answered.", labels, registry=self.registry)
        self.seconds = Histogram(
            "sweeper_request_seconds", "Time to the first byte of an answer.", ("route",),
            registry=self.registry, buckets=_BOUNDS,
        )  # fmt: skip
        ProcessCollector(registry=self.registry)
        self.registry.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges that are computed at each request."""
        counts = self.catalog.counts()
        sweeps = GaugeMetricFamily("sweeper_sweeps", "Sweeps by state.", labels=["state"])
        for state, count in counts.items():
            sweeps.add_metric([state], count)
        yield sweeps
        yield GaugeMetricFamily("sweeper_queue_length", "Waiting sweeps.", value=counts[State.QUEUED])
        running = sum(counts[state] for state in ACTIVE)
        yield GaugeMetricFamily("sweeper_processes", "Processes of running sweeps.", value=running)
        with self.catalog.engine.connect() as connection:
            trials = connection.execute(select(func.count()).select_from(landed)).scalar_one()
            waiting = select(func.count()).select_from(deliveries).where(deliveries.c.ended.is_(None))
            hooks = connection.execute(waiting).scalar_one()
        yield GaugeMetricFamily("sweeper_trials_landed", "Finished trials of all sweeps.", value=trials)
        yield GaugeMetricFamily("sweeper_deliveries_waiting", "Webhooks that wait for delivery.", value=hooks)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class Measured:
    """ASGI middleware that counts requests.

    Args:
        app: The app.
        metrics: The metrics to update.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and count it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500
        first: float | None = None

        async def sent(message: Message) -> None:
            nonlocal status, first
            if message["type"] == "http.response.start":
                status, first = message["status"], time.perf_counter()
            await send(message)

        try:
            await self.app(scope, receive, sent)
        finally:
            # the route's pattern instead of the path keeps the number of series small
            route = getattr(scope.get("route"), "path", "") or "other"
            self.metrics.requests.labels(route, _method(scope["method"]), str(status)).inc()
            self.metrics.seconds.labels(route).observe((first or time.perf_counter()) - start)


def _method(method: str) -> str:
    return method if method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS") else "other"
