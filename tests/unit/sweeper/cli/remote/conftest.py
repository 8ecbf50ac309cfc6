"""Commands with `--server`, in an empty folder."""

from pathlib import Path

import pytest

from sweeper.cli.main import main
from tests.support.fake_service import FakeService
from tests.support.service_answers import Sweeper


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def sweeper(service: FakeService, capsys: pytest.CaptureFixture[str]) -> Sweeper:
    """Run a command with `--server`; returns exit code, stdout and stderr."""

    def run(*argv: str, server: bool = True) -> tuple[int, str, str]:
        code = main([*argv, *(("--server", service.url) if server else ())])
        out, err = capsys.readouterr()
        return code, out, err

    return run
