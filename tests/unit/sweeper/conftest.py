import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeper.backoff import Backoff
from tests.support.fake_service import FakeService, serving


@pytest.fixture(autouse=True)
def own_registries() -> Iterator[None]:
    """Names that a user's file registers in a test are gone after it, until it is loaded anew."""
    yield
    for module, registry in (("trainables.models", "MODELS"), ("trainables.datasets", "DATASETS")):
        if module in sys.modules:
            known = getattr(sys.modules[module], registry)
            for name in list(known._owners):
                known._items.pop(name, None)
                known._owners.pop(name, None)


@pytest.fixture
def quick_client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No waiting between tries of a client, and no token, server or proxy of the user's."""
    for module in ("transport", "events"):
        monkeypatch.setattr(f"sweeper.client.{module}.BACKOFF", Backoff(0.001, 8.0))
    monkeypatch.setattr("sweeper.client.client.LOOK_SECONDS", 0.001)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("SWEEPER_SERVER", "SWEEPER_TOKEN", "SWEEPER_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def service(quick_client: None) -> Iterator[FakeService]:
    with serving() as found:
        yield found
