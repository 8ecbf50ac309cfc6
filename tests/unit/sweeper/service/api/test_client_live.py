"""The guide's example of the client against the real API over HTTP, with a real process of a sweep."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from sweeper.cli.main import main
from sweeper.client import Client, ClientError
from sweeper.service.api.app import make_api
from sweeper.service.config import Config
from sweeper.service.service import Service
from tests.docs.pages import DOCS, blocks
from tests.support.waiting import until

GUIDE = DOCS / "how-to" / "service-users.md"

pytestmark = pytest.mark.service


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    service = Service(Config(root=str(tmp_path)))
    service.start()
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(make_api(service), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    until(lambda: server.started or not thread.is_alive())
    assert server.started
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    listening.close()
    service.close()


def test_the_example_runs(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SWEEPER_SERVER", url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (example,) = blocks(GUIDE, "python")
    names: dict[str, object] = {}
    exec(compile(example.text, GUIDE.name, "exec"), names)
    assert "state its turn" in capsys.readouterr().out
    assert names["trials"].num_rows == 12  # type: ignore[attr-defined]
    with Client() as client:
        sent = names["sent"].id  # type: ignore[attr-defined]
        assert client.best(sent)["config"]
        assert client.me().used.trials == 12
        assert [e.data["state"] for e in client.events(sent) if e.type == "state"] == ["done"]
        with pytest.raises(ClientError, match="there is no sweep 'no'"):
            client.sweep("no")
        capsys.readouterr()
        digest = client.best(sent)["digest"]
        named = (["status"], ["list"], ["best"], ["extend", "--dry-run"], ["pair"])
        for command, *flags in named:  # as the pages name them: by the id, with --server
            also = [digest] if command == "pair" else []
            assert main([command, sent, *also, *flags, "--server", url]) == 0, command
            said = capsys.readouterr()
            assert said.out
            assert str(tmp_path) not in said.out + said.err
        client.delete(sent)
        assert list(client.sweeps()) == []
