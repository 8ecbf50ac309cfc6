"""Tokens: where they come from, and who may not read them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeper.client import Client, ClientError
from sweeper.errors import SpecError
from tests.support.fake_service import FakeService

TOKEN = "a-token-that-nobody-may-see"
FIRST = "/v1/sweeps/synthetic-1"
pytestmark = pytest.mark.usefixtures("quick_client")


@pytest.fixture
def client(service: FakeService) -> Iterator[Client]:
    with Client(service.url) as found:
        yield found


def test_the_token_comes_from_argument_environment_or_file(
    service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sent(token: str | None = None) -> str | None:
        list(Client(service.url, token).sweeps())
        return service.seen[-1][3].get("authorization")

    assert sent() is None
    usual = tmp_path / ".config" / "sweeper" / "token"
    usual.parent.mkdir(parents=True)
    for file, token in ((usual, "usual"), (tmp_path / "other", "other")):
        file.write_text(f"{token}\n")
        file.chmod(0o600)
    assert sent() == "Bearer usual"
    monkeypatch.setenv("SWEEPER_TOKEN_FILE", str(tmp_path / "other"))
    assert sent() == "Bearer other"
    monkeypatch.setenv("SWEEPER_TOKEN", "variable")
    assert sent() == "Bearer variable"
    assert sent(TOKEN) == f"Bearer {TOKEN}"
    assert TOKEN not in repr(Client(service.url, TOKEN))


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o601])
def test_a_token_that_others_may_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(mode)
    monkeypatch.setenv("SWEEPER_TOKEN_FILE", str(file))
    with pytest.raises(
        SpecError, match=rf"other users can read the token in .* \(mode {mode:o}\): chmod 600 {file}"
    ) as caught:
        Client("http://127.0.0.1:1")
    assert TOKEN not in str(caught.value)


def test_what_is_no_token_is_said_and_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match="the token must be printable ASCII") as caught:
        Client("http://127.0.0.1:1", f"{TOKEN}\nX-Other: 1")
    assert TOKEN not in str(caught.value)
    file = tmp_path / "token"
    monkeypatch.setenv("SWEEPER_TOKEN_FILE", str(file))
    with pytest.raises(SpecError, match=r"SWEEPER_TOKEN_FILE names .*, which does not exist"):
        Client("http://127.0.0.1:1")
    file.touch(0o600)
    with pytest.raises(SpecError, match="is empty"):
        Client("http://127.0.0.1:1")


def test_a_token_does_not_leave_the_machine_in_clear() -> None:
    for url in ("http://host:8000", "http://10.0.0.1"):
        with pytest.raises(SpecError, match="unencrypted: use https") as caught:
            Client(url, TOKEN)
        assert TOKEN not in str(caught.value)
        Client(url, TOKEN, insecure=True)
        Client(url)
    for url in ("https://host", "http://localhost:8000", "http://127.0.0.9:1", "http://[::1]:8000"):
        Client(url, TOKEN)
    with pytest.raises(SpecError, match=r"/no/such.pem does not exist"):
        Client("https://host", ca="/no/such.pem")


def test_a_missing_token_is_said_with_where_it_is_read_from(service: FakeService, client: Client) -> None:
    service.fault("GET", FIRST, (401, {}, "a token is needed"))
    with pytest.raises(ClientError, match="a token is needed; the token comes from SWEEPER_TOKEN, the file"):
        client.sweep("synthetic-1")
