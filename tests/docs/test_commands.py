"""Every command of the pages runs, page by page, in small; those that need a cluster, a GPU or a server parse."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sweeper.cli.main import main
from tests.docs import command_line
from tests.docs.pages import DOCS, ROOT, WRITTEN, blocks, with_output
from trainables.models.registry import MODELS

ELSEWHERE = ("serve", "dashboard", "submit", "stop", "token", "manifest", "merge")
NEEDS = re.compile(r"--server|--address|s3://|\bROOT\b|\ba\.pt\b|--png|--save|--resources|cifar|--landscape|planes")
"""A server, a cluster, a store, data, weights, a browser, Ray, a GPU, or half a minute a pair."""
QUICK = {"digits_label_noise": "synthetic"}
PAGES = [p for p in WRITTEN if any(commands for commands, _ in with_output(p))]


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch) -> None:
    from trainables.datasets import DATASETS

    for registry in (MODELS, DATASETS):  # what an example registers is gone after the test
        monkeypatch.setattr(registry, "_items", dict(registry._items))
        monkeypatch.setattr(registry, "_owners", dict(registry._owners))


def is_elsewhere(words: list[str]) -> bool:
    """Whether a command needs something that this machine does not have."""
    return any(w in ELSEWHERE for w in words[:3]) or bool(NEEDS.search(" ".join(words)))


def in_small(words: list[str]) -> list[str]:
    """Return a command that runs here in a second or two: the closed form, few trials, no Ray."""
    words = [QUICK.get(w, w) for w in words]
    if words[0] not in ("run", "resume", "extend"):
        return words
    most = 44 if words[0] == "resume" else 40 if "qmc" in words else 8
    if "digits_cnn" in words:
        words += ["--set", "epochs=1", "--set", "base.steps=5"]
        most = 2
    if "--trials" in words:
        at = words.index("--trials") + 1
        words[at] = str(min(int(words[at]), most))
    return words if "--runner" in words else [*words, "--runner", "inline"]


def skeleton(text: str) -> str:
    """Return a text without its numbers, its line ends and its columns' widths."""
    return " ".join(re.sub(r"[-−]?\d[\d.,]*(e[-+]?\d+)?|(?<=#)\*", "#", text).replace("#*", "#").split())


def test_skeletons_forget_numbers_only() -> None:
    assert skeleton("best at 0.01 (1e-4 to\n  7)") == skeleton("best at 3 (-2 to 9.5e+3)") != skeleton("best at 0.01")


class Place:
    """A folder in which all pages run their commands; one that ran already says what it said."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.said, self.skipped = folder, dict[tuple[str, ...], str](), set[str]()
        (folder / "tests").symlink_to(ROOT / "tests")

    def run(self, words: list[str], capsys: pytest.CaptureFixture[str]) -> str | None:
        """Return what a command prints; None for one that was parsed only."""
        outs = {w for w in words if w.startswith("runs/")}
        if is_elsewhere(words) or outs & self.skipped:
            command_line.parse(words)
            self.skipped |= outs - {w for ran in self.said for w in ran}
            return None
        small = tuple(in_small(words))
        if small not in self.said:
            assert main(small) == 0, words
            self.said[small] = capsys.readouterr().out
        return self.said[small]


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("pages"))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_run(
    page: Path, place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place.folder)
    for block in blocks(page, "python"):
        if "SPACE = " in block.text:
            Path("mine.py").write_text(block.text)
    digest = ""
    for commands, shown in with_output(page):
        said = None
        for command in commands:
            said = place.run([digest if w == "DIGEST" else w for w in command], capsys)
            digest = (re.findall(r"\b[0-9a-f]{16}\b", said or "") or [digest])[-1]
        if said is not None:
            assert skeleton(shown) in skeleton(said)


def test_the_parser_meets_commands_of_every_kind() -> None:
    every = [words for page in WRITTEN for commands, _ in with_output(page) for words in commands]
    here = [words for words in every if not is_elsewhere(words)]
    assert len(here) > 30
    assert len(every) - len(here) > 30
    assert (DOCS / "tutorial.md") in PAGES
