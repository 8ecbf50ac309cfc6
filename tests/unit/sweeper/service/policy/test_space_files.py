"""The admin's space files: executed once, in a process of their own, and read as data from then on."""

import os
from pathlib import Path
from typing import Any

import pytest

from search_spaces._space import SpaceError
from sweeper.service.policy import space_files
from sweeper.service.policy.space_files import SpaceFiles
from tests.support.service_fakes import client_of, make_service

SPACE = """\
import os
from pathlib import Path
from search_spaces import load
with Path({marker!r}).open("a") as file:
    file.write(f"{{os.getpid()}}\\n")
SPACE = load("synthetic").override({{}}, {{"weight_decay": 0.0}}, doc="mine")
"""


class Folder:
    """A folder with one space file that writes down which process executes it."""

    def __init__(self, root: Path) -> None:
        self.spaces, self.marker = root / "spaces", root / "marker"
        self.spaces.mkdir()
        self.file = self.spaces / "mine.py"
        self.file.write_text(SPACE.format(marker=str(self.marker)))

    @property
    def processes(self) -> list[int]:
        return [int(line) for line in self.marker.read_text().split()] if self.marker.exists() else []


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_a_file_is_executed_once_and_never_in_the_server(folder: Folder, tmp_path: Path) -> None:
    files = SpaceFiles(folder.spaces, tmp_path / "kept")
    assert files.known() == []
    assert folder.processes == []
    space = files.find(str(folder.file))
    assert (space.name, space.doc, space.fixed["weight_decay"]) == ("mine", "mine", 0.0)
    assert space.fixed["source"] == folder.file.read_text()
    assert files.find(str(folder.file)) == space
    after_a_restart = SpaceFiles(folder.spaces, tmp_path / "kept")
    assert after_a_restart.known() == [space]
    (one,) = folder.processes
    assert one != os.getpid()
    folder.file.write_text(folder.file.read_text() + "# edited\n")
    assert after_a_restart.known() == []
    assert after_a_restart.find(str(folder.file)).fixed["source"].endswith("# edited\n")
    assert len(folder.processes) == 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("raise SystemExit('no')", "line 1: SystemExit: no"),
        ("import os\nos._exit(3)", "the process died before it defined a space"),
        ("SPACE = 3", "must define SPACE = Space"),
        ("import time\ntime.sleep(60)", "takes more than 0.5 s to execute"),
    ],
)
def test_a_file_that_defines_no_space_is_one_sentence(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, text: str, sentence: str
) -> None:
    if "sleep" in text:
        monkeypatch.setattr(space_files, "SECONDS", 0.5)
    folder.file.write_text(text)
    files = SpaceFiles(folder.spaces)
    for _ in range(2):
        with pytest.raises(SpaceError, match=sentence):
            files.find(str(folder.file))
    assert files.known() == []


def test_the_service_admits_and_lists_without_executing_a_file_itself(folder: Folder, tmp_path: Path) -> None:
    service: Any = make_service(tmp_path, spaces=folder.spaces)
    client = client_of(service)
    spec = {"space": "mine", "trials": 4, "sampler": "random"}
    assert client.post("/v1/sweeps?dry_run=true", json=spec).status_code == 200
    sweep = client.post("/v1/sweeps", json=spec).json()["id"]
    assert [s["name"] for s in client.get("/v1/spaces").json()][-1] == "mine"
    assert client.post(f"/v1/sweeps/{sweep}/cancel").status_code == 202
    assert client.post(f"/v1/sweeps/{sweep}/resume", json={"trials": 9}).json()["progress"]["budget"] == 9
    (one,) = folder.processes
    assert one != os.getpid()
