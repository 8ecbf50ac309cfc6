"""What a service cannot do, what only a service can do, and what runs here again."""

import json
from pathlib import Path

import click
import pytest

from sweeper import run
from sweeper.cli.main import cli
from sweeper.cli.remote import commands
from sweeper.config.spec import SweepSpec
from tests.support.fake_service import FakeService, sweep
from tests.support.service_answers import Sweeper

pytestmark = pytest.mark.usefixtures("quick_client")


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["import", "t.csv", "--space", "synthetic"], "`sweeper import` runs on this machine only"),
        (["merge", "--models", "a", "b"], "`sweeper merge` runs on this machine only"),
        (["manifest", "synthetic", "--kuberay"], "`sweeper manifest` runs on this machine only"),
        (["submit", "synthetic"], "`sweeper submit` runs on this machine only"),
        (["compact", "DIR"], "`sweeper compact` runs on this machine only: leave out --server"),
        (["export", "DIR"], "`sweeper export` runs on this machine only"),
        (["run", "synthetic", "--out", "x"], "--out does not work with a server: the service chooses the sweep"),
        (["run", "synthetic", "--address", "auto"], "--address does not work with a server"),
        (["run", "synthetic", "--cache", "x"], "--cache does not work with a server"),
        (["run", "synthetic", "--priority", "high"], "--priority must be a whole number"),
        (["run", "no.yaml"], "cannot read no.yaml: No such file"),
        (["resume", "s", "--address", "auto"], "--address does not work with a server"),
        (["extend", "s", "--workers", "3"], "--workers does not work with a server: an extension runs like its sweep"),
        (["best", "s", "--noise", "paper"], "--noise does not work with a server"),
        (
            ["status", "s", "--address", "http://h"],
            "--address does not work with a server: it selects",
        ),
        (["status", "s"], "there is no sweep 's'"),
    ],
)
def test_what_a_service_cannot_do_is_one_line(sweeper: Sweeper, argv: list[str], sentence: str) -> None:
    code, out, err = sweeper(*argv)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert sentence in err


@pytest.mark.parametrize(
    "argv",
    [
        ["run", "synthetic", "--detach"],
        ["run", "synthetic", "--name", "n"],
        ["resume", "runs/x", "--detach"],
        ["stop", "job", "--cancel"],
    ],
)
def test_what_only_a_service_can_do_is_one_line(sweeper: Sweeper, argv: list[str]) -> None:
    code, out, err = sweeper(*argv, server=False)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "needs a service: give its address by --server" in err


def test_every_command_of_a_service_has_its_flags() -> None:
    context = click.Context(cli)
    loaded = {name: cli.get_command(context, name) for name in cli.list_commands(context)}
    trusting = {n for n, c in loaded.items() if c and {"server", "ca", "insecure"} <= {p.name for p in c.params}}
    assert set(commands.COMMANDS) == trusting - {"submit"}


def test_pair_runs_a_trial_of_a_service_again_on_this_machine(
    sweeper: Sweeper, service: FakeService, tmp_path: Path
) -> None:
    asked = {"space": "synthetic", "trials": 6, "runner": "inline", "sampler": "random"}
    rows = run(SweepSpec.checked({**asked, "out": str(tmp_path / "run")})).trials.to_pylist()
    service.sweeps["synthetic-1"] = sweep(state="done", spec=asked)
    service.rows = rows
    row = next(r for r in rows if r["merged_loss_test"] is not None)
    digest = row["digest"]
    code, out, _ = sweeper("pair", "synthetic-1", digest[:8])
    assert code == 0
    assert f"trial {digest} agrees in every digit" in out
    row["merged_loss_test"] += 1
    code, out, _ = sweeper("pair", "synthetic-1", digest, "--json")
    assert code == 1
    assert json.loads(out)["column"] == "merged_loss_test"
    assert sweeper("pair", "synthetic-1", "zz")[0] == 2
    spec = {**json.loads(row["spec"]), "source": "raise SystemExit('executed')"}
    row["spec"] = json.dumps(spec)
    code, _, err = sweeper("pair", "synthetic-1", digest)
    assert (code, err.count("\n")) == (2, 1)
    assert "needs Python code of the server" in err
