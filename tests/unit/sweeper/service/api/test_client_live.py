"""The guide's example of the client against the real API over HTTP, with a real process of a sweep."""

from pathlib import Path

import pytest

from sweeper.cli.main import main
from sweeper.client import Client, ClientError
from tests.docs.pages import DOCS, blocks

GUIDE = DOCS / "how-to" / "service-users.md"

pytestmark = pytest.mark.service


def test_the_example_runs(
    served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SWEEPER_SERVER", served)
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
            assert main([command, sent, *also, *flags, "--server", served]) == 0, command
            said = capsys.readouterr()
            assert said.out
            assert str(tmp_path) not in said.out + said.err
        client.delete(sent)
        assert list(client.sweeps()) == []
