"""The pages stay short, link to what exists, and their code is code; the strict build passes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from sweeper.cli.main import main
from sweeper.client.models import Quota
from tests.docs import command_line
from tests.docs.pages import DOCS, ROOT, WRITTEN, blocks

README = ROOT / "README.md"


def test_the_readme_is_short() -> None:
    lines = README.read_text().splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 160 and not line.startswith(("|", "!["))] == []


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_of_the_root_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (ROOT / name).read_text())
    assert len(links) > 3
    assert [link for link in links if not link.startswith("https://") and not (ROOT / link).is_file()] == []


def test_the_strict_build_passes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    built = {p.relative_to(tmp_path).with_suffix(".md") for p in tmp_path.rglob("*.html")}
    assert {p.relative_to(DOCS) for p in DOCS.rglob("*.md")} <= built


def test_every_command_is_in_a_guide() -> None:
    text = "\n".join(page.read_text() for page in WRITTEN)
    missing = [n for n in command_line.names() if not re.search(rf"sweeper {' '.join(n)}\b", text)]
    assert missing == []


def test_every_quota_is_in_the_guide_and_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    section = (DOCS / "how-to" / "service-admins.md").read_text().partition("## Quotas")[2].partition("\n## ")[0]
    shown = command_line.help_of("token", "create")
    for name in Quota.model_fields:
        assert f"`{name}`" in section
        assert f"{name}=" in shown


def test_the_yaml_example_is_a_sweep(tmp_path: Path) -> None:
    from sweeper.config.load import load_sweep

    (block,) = blocks(DOCS / "how-to" / "model-and-data.md", "yaml")
    path = tmp_path / "sweep.yaml"
    path.write_text(block.text)
    spec = load_sweep(str(path)).spec
    assert (spec.trials, spec.fixed) == (60, {"epochs": 4})


def test_commands_for_one_trial_parse() -> None:
    from trainables.pair.run import _arguments

    (block,) = blocks(DOCS / "how-to" / "one-trial.md", "sh")
    launched = [line.split() for line in block.text.splitlines() if "trainables.pair" in line]
    assert [words[0] for words in launched] == ["python", "torchrun"]
    for words in launched:
        _arguments().parse_args(words[words.index("trainables.pair") + 1 :])


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    api, study = (block.text for block in blocks(README, "python"))
    small = api.replace('space="digits_label_noise", trials=20', 'space="synthetic", runner="inline", trials=6')
    assert small != api
    exec(compile(small, "README api", "exec"), {})
    exec(compile(study.replace("n_trials=30", "n_trials=8"), "README study", "exec"), {"__name__": "readme"})
    (frame,) = blocks(DOCS / "how-to" / "storage.md", "python")
    exec(compile(frame.text.replace("runs/demo", "runs/python"), "frame", "exec"), {})
    assert main(["status", "runs/python"]) == 0
