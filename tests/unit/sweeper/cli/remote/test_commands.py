"""The commands that a service carries out, as a user meets them: what is sent and shown; exit codes."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweeper.cli.commands import names
from tests.support.fake_service import FakeService, event, sweep
from tests.support.service_answers import BEST, FIRST, WINNER, Sweeper, refused
from tests.support.trial_rows import trial

pytestmark = pytest.mark.usefixtures("quick_client")


def ends(service: FakeService, state: str = "done", **progress: Any) -> None:
    """Let the first sweep that is followed run to its end."""
    progress = {"budget": 4, "done": 4, "trials": 4, "outcomes": {"ok": 3, "diverged": 1}, **progress}
    regime = {"objective": "gain_mean", "noise": "paper", "unit": "1", "optimum": 0.01, "message": "optimum at 0.01"}

    def end() -> None:
        found = {"state": state, "reason": "all trials have run", "progress": progress, "regime": regime, "best": BEST}
        service.sweeps["synthetic-1"].update(found)
        service.answers["GET", f"{FIRST}/best"] = 200, "application/json", json.dumps(WINNER).encode()
        service.answers["GET", f"{FIRST}/recommendation"] = refused(409, "no optimum yet")

    service.streams.append(
        [
            event(1, "state", state="running", reason="its turn"),
            event(2, "target", target=0.02),
            event(3, "trial", outcome="ok", value=0.02),
            event(4, "trial", outcome="ok", value=0.031),
            event(5, "trial", outcome="ok", value=0.01),
            event(10, "best", **BEST),
            event(6, "verdict", message="best noise 0.02; and more", optimum=0.02),
            end,
            event(7, "progress", **progress),
            event(8, "state", state=state, reason="all trials have run"),
        ]
    )


def sent(service: FakeService) -> Any:
    """Return the sweep that was sent."""
    ((_, headers, body),) = service.asked("POST", "/v1/sweeps")
    assert headers["content-type"] == "application/yaml"
    return yaml.safe_load(body)


# -- run --------------------------------------------------------------------------------------------------------------


def test_run_sends_what_was_set_and_follows_to_the_end(service: FakeService, sweeper: Sweeper) -> None:
    ends(service)
    code, out, err = sweeper("run", "synthetic", "--trials", "4", "--objective", "gain_mean", "--set", "steps=9")
    assert code == 0
    assert sent(service) == {"space": "synthetic", "trials": "4", "objective": ["gain_mean"], "fixed": {"steps": 9}}
    for text in (
        "synthetic-1 is queued",
        "running: its turn",
        "best noise 0.02",
        "4/4 trials",
        "best gain_mean 0.031",
    ):
        assert text in err
    assert "noise target 0.02" in err
    for text in (
        "4 trials (3 ok, 1 diverged)",
        "gain_mean: optimum at 0.01",
        "best trial by gain_mean on validation: d2",
        f"{service.url}/?run=synthetic-1",
    ):
        assert text in out


@pytest.mark.parametrize(
    ("state", "progress", "code"),
    [
        ("done", {}, 0),
        ("failed", {"outcomes": {"failed": 4}}, 3),
        ("failed", {"failed": 10}, 3),
        ("failed", {"trials": 0, "outcomes": {}}, 1),
        ("cancelled", {}, 130),
        ("interrupted", {}, 130),
    ],
)
def test_exit_codes_are_those_of_a_run_here(
    service: FakeService, sweeper: Sweeper, state: str, progress: dict[str, Any], code: int
) -> None:
    ends(service, state, **progress)
    found, out, err = sweeper("run", "synthetic", "--json")
    assert found == code
    record = json.loads(out)
    assert (record["state"], record["best"]["digest"], record["regimes"]["gain_mean"]["optimum"]) == (state, "d2", 0.01)
    assert (f"`sweeper resume synthetic-1 --server {service.url}` continues" in err) == (code != 0)


def test_a_spec_file_is_sent_as_it_stands_with_flags_merged(
    service: FakeService, sweeper: Sweeper, tmp_path: Path
) -> None:
    file = tmp_path / "specs" / "s.yaml"
    file.parent.mkdir()
    file.write_text(
        "space: digits_cnn\ndata: sets\ntrials: 9\nresources: {cpus_per_trial: 2}\n"
        "parameters:\n  momentum: {values: [0, 0.9]}\n  batch_size: {min: 8, max: 64}\nfixed: {epochs: 4}\n"
    )
    (tmp_path / "points.yaml").write_text("- {batch_size: 16}\n")
    argv = ["--set", "momentum=0.5", "--resources", "gpus_per_pair=1", "--seed", "3", "--enqueue", "points.yaml"]
    argv += ["--name", "night", "--priority", "5", "--shared", "--webhook", "https://hook"]
    code, out, err = sweeper("run", str(file), *argv, "--detach")
    assert (code, out) == (0, "synthetic-1\n")
    assert sent(service) == {
        "space": "digits_cnn",
        "data": "sets",
        "trials": 9,
        "seed": "3",
        "resources": {"cpus_per_trial": 2, "gpus_per_pair": 1},
        "parameters": {"batch_size": {"min": 8, "max": 64}},
        "fixed": {"epochs": 4, "momentum": 0.5},
        "enqueue": [{"batch_size": 16}],
    }
    query = service.seen[0][2]
    assert query == {"name": ["night"], "priority": ["5"], "shared": ["true"], "webhook": ["https://hook"]}
    assert f"`sweeper status synthetic-1 --server {service.url} --follow` follows it" in err


def test_a_refusal_names_the_line_of_the_file(service: FakeService, sweeper: Sweeper, tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("space: digits_cnn\n\ntrials: 0\nparameters:\n  momentum:\n    min: 1\ntrails: 3\n")
    for sentence, line in (
        ("trials: must be >= 1, got 0", 3),
        ("parameters.momentum.min: must be below max", 6),
        ("unknown key 'trails'; did you mean trials?", 7),
    ):
        service.fault("POST", "/v1/sweeps", (422, {}, sentence))
        assert sweeper("run", str(file)) == (2, "", f"error: {file}, line {line}: {sentence}\n")
    for status, sentence in ((403, "trials are not allowed"), (422, "nothing fits")):
        service.fault("POST", "/v1/sweeps", (status, {}, sentence))
        assert sweeper("run", str(file)) == (2, "", f"error: {sentence}\n")
    service.fault("POST", "/v1/sweeps", (422, {}, "trials: must be >= 1, got -1"))
    assert sweeper("run", str(file), "--trials", "-1")[2] == "error: trials: must be >= 1, got -1\n"


def test_a_dry_run_queues_nothing(service: FakeService, sweeper: Sweeper) -> None:
    code, out, _ = sweeper("run", "synthetic", "--dry-run")
    assert (code, out, service.sweeps) == (0, "4 trials of 4 configurations\n", {})


def test_ctrl_c_detaches_and_says_how_to_continue(service: FakeService, sweeper: Sweeper) -> None:
    import os
    import signal

    service.streams.append([lambda: os.kill(os.getpid(), signal.SIGINT), lambda: time.sleep(0.3)])
    code, out, err = sweeper("run", "synthetic")
    assert (code, out) == (0, "")
    assert f"detached; sweep synthetic-1 continues: `sweeper status synthetic-1 --server {service.url} --follow`" in err
    assert f"`sweeper stop synthetic-1 --server {service.url}` stops it" in err
    assert service.sweeps["synthetic-1"]["state"] == "queued"


# -- the others -------------------------------------------------------------------------------------------------------


def test_a_sweep_is_looked_at_stopped_and_resumed(service: FakeService, sweeper: Sweeper) -> None:
    service.sweeps["synthetic-1"] = sweep(position=3, best=BEST, warnings=["w1"])
    code, out, _ = sweeper("status", "synthetic-1")
    assert code == 0
    assert "place in the queue   3" in out
    assert "warning: w1" in out
    assert json.loads(sweeper("status", "synthetic-1", "--json")[1])["best"]["digest"] == "d1"
    assert sweeper("stop", "synthetic-1")[1] == "sweep synthetic-1 is stopping\n"
    assert sweeper("stop", "synthetic-1", "--cancel")[1] == "sweep synthetic-1 is cancelled\n"
    assert sweeper("resume", "synthetic-1", "--trials", "9", "--max-seconds", "60", "--detach")[0] == 0
    ((_, _, body),) = service.asked("POST", f"{FIRST}/resume")
    assert json.loads(body) == {"trials": "9", "max_seconds": "60"}
    code, out, _ = sweeper("extend", "synthetic-1", "--dry-run", "--noises", "2")
    assert (code, out) == (0, "the ends are missing\n3 further trials; nothing was run\n")
    ends(service)
    assert sweeper("status", "synthetic-1", "--follow")[0] == 0
    ends(service)
    service.sweeps["synthetic-1"]["state"] = "done"
    assert sweeper("extend", "synthetic-1")[0] == 0
    assert service.streams == type(service.streams)()


def test_lists_and_tables_are_those_of_this_machine(service: FakeService, sweeper: Sweeper) -> None:
    assert sweeper("list")[1] == "no sweeps yet\n"
    service.sweeps = {f"s-{i}": sweep(f"s-{i}") for i in range(3)}
    assert [s["id"] for s in json.loads(sweeper("list", "--json")[1])["items"]] == ["s-0", "s-1", "s-2"]
    assert "s-2" in sweeper("list")[1]
    service.rows = [trial(f"c{i}", 0.1, number=i) for i in range(3)]
    rows = json.loads(sweeper("list", "s-0", "--json")[1])["items"]
    assert [(r["number"], r["digest"], r["gain_mean_loss_val"]) for r in rows] == [
        (i, f"c{i}-0", 0.1) for i in range(3)
    ]
    assert "gain_mean_loss_val" in sweeper("list", "s-0")[1]
    for name, records in (
        ("spaces", names.space_records()),
        ("noises", names.noise_records()),
        ("merges", names.merge_records()),
    ):
        service.answers["GET", f"/v1/{name}"] = 200, "application/json", json.dumps(records).encode()
        for more in ((), ("--json",)):
            assert sweeper(name, *more)[1] == sweeper(name, *more, server=False)[1]


def test_the_page_opens_on_a_machine_with_a_screen(
    service: FakeService, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    service.sweeps = {"s": sweep("s"), "bad": sweep("bad", page="file:///etc/passwd")}
    monkeypatch.setenv("CI", "1")
    monkeypatch.setenv("DISPLAY", ":0")
    assert sweeper("dashboard", "s")[1] == f"{service.url}/?run=s\n"
    assert opened == []
    monkeypatch.delenv("CI")
    assert sweeper("dashboard")[1] == f"{service.url}/\n"
    assert sweeper("dashboard", "bad")[1] == f"{service.url}/\n"
    assert opened == [f"{service.url}/"] * 2
    assert "dashboard takes one sweep, got 2" in sweeper("dashboard", "s", "t")[2]


# -- where a command goes ---------------------------------------------------------------------------------------------


def test_the_server_may_stand_before_the_command_and_in_the_environment(
    service: FakeService, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    service.sweeps = {"s": sweep("s")}
    assert "s" in sweeper("--server", service.url, "--insecure", "list", server=False)[1]
    monkeypatch.setenv("SWEEPER_SERVER", service.url)
    assert "no sweeps" not in sweeper("list", server=False)[1]
    # what is here stays here: the folder holds no sweep, and this machine says so
    (tmp_path / "s").mkdir()
    asked = len(service.seen)
    for argv in (["status", "s"], ["list", "s"], ["best", "s"], ["recommend", "s"], ["resume", "s"], ["extend", "s"]):
        code, _, err = sweeper(*argv, server=False)
        assert code == 2
        assert "holds no sweep" in err or "sweep.yaml" in err, err
    assert sweeper("export", "s", server=False)[0] == 2
    assert "give a run folder, `sweeper list DIR`" in sweeper("list", "--server", "", server=False)[2]
    assert len(service.seen) == asked
    assert "there is no sweep 'no'" in sweeper("status", "no", server=False)[2]
    assert sweeper("status", "s")[0] == 0
