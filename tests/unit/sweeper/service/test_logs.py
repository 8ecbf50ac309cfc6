"""An error that comes again and again is written once a minute, with a count."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from sqlalchemy.exc import OperationalError

from sweeper.service.logs import COUNTED, Repeats, report_failure


@pytest.fixture
def filtered(caplog: pytest.LogCaptureFixture) -> Iterator[tuple[Repeats, list[float], logging.Logger]]:
    now = [0.0]
    logger, repeats = logging.getLogger("sweeper.service"), Repeats(lambda: now[0])
    logger.addFilter(repeats)
    yield repeats, now, logger
    logger.removeFilter(repeats)


def test_a_minute_of_errors_is_two_lines(
    filtered: tuple[Repeats, list[float], logging.Logger], caplog: pytest.LogCaptureFixture
) -> None:
    repeats, now, logger = filtered
    for tick in range(480):  # four minutes of a tick each half second
        now[0] = tick / 2
        try:
            raise ValueError(f"row {tick}")
        except ValueError:
            logger.exception("sweep %s cannot be judged", tick)
        report_failure("a step of over", OperationalError("UPDATE", {"id": tick}, Exception("disk is full")))
    texts = [record.getMessage() for record in caplog.records]
    assert texts == [
        "sweep 0 cannot be judged",
        "a step of over failed: OperationalError: disk is full",
        "sweep 120 cannot be judged (and 119 times before, in 60 s)",
        "a step of over failed: OperationalError: disk is full (and 119 times before, in 60 s)",
        "sweep 240 cannot be judged (and 119 times before, in 60 s)",
        "a step of over failed: OperationalError: disk is full (and 119 times before, in 60 s)",
        "sweep 360 cannot be judged (and 119 times before, in 60 s)",
        "a step of over failed: OperationalError: disk is full (and 119 times before, in 60 s)",
    ]
    assert caplog.text.count("Traceback") == 4
    now[0] = 300.0
    assert repeats.overdue() == [
        "sweep 479 cannot be judged (119 times more, in 120 s)",
        "a step of over failed: OperationalError: disk is full (119 times more, in 120 s)",
    ]
    assert repeats.overdue() == []


def test_other_errors_are_not_held_back(
    filtered: tuple[Repeats, list[float], logging.Logger], caplog: pytest.LogCaptureFixture
) -> None:
    _, _, logger = filtered
    for step in ("a step of over", "a step of begin"):
        report_failure(step, OSError(28, "No space left on device"))
        report_failure(step, ValueError("x"))
    for _ in range(2):
        logger.warning("told", extra={COUNTED: True})
        logger.warning("webhooks: %s", "away")
    assert [record.getMessage().partition(" failed")[0] for record in caplog.records] == [
        *("a step of over",) * 2, *("a step of begin",) * 2, "told", "webhooks: away", "told",
    ]  # fmt: skip
