"""Extensions: exactly the trials that are asked for, each once, beside a sweep that stays as it was."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import sweeper
from dashboards.page import page
from sweeper.analysis.best import find_winner
from sweeper.analysis.evidence import plan
from sweeper.analysis.evidence.needs import Need
from sweeper.analysis.evidence.plan import Plan
from sweeper.analysis.regime import fit_regime
from sweeper.cli.commands import extend
from sweeper.cli.main import main
from sweeper.config.prepared import prepare
from sweeper.config.space import load_space
from sweeper.config.trials import build
from sweeper.storage.run_folder import stored_spec
from sweeper.storage.tables import read_trials
from tests.support.inline_sweeps import stop_after, sweep
from trainables.noise import NOISE

INLINE = ["--runner", "inline"]


def rows_of(run: Path) -> list[dict[str, Any]]:
    return read_trials(run).to_pylist()


def digests(run: Path) -> list[str]:
    return sorted(r["digest"] for r in rows_of(run))


def added(run: Path) -> list[dict[str, Any]]:
    return [r for r in rows_of(run) if r["number"] is None]


def asks(monkeypatch: pytest.MonkeyPatch, needs: Callable[[list[dict[str, Any]]], Sequence[Need]]) -> None:
    """Let the analysis ask for what `needs(rows)` says; no page is written, which takes seconds."""

    def analyse(trials: Any, objective: str, noise: str) -> Any:
        asked = tuple(needs(trials.to_pylist()))
        said = {"verdict": "undetermined", "sentences": ("undetermined: a fake",), "needs": asked, "n_configs": 6}
        return SimpleNamespace(objective=objective, noise=noise, **said)

    monkeypatch.setattr(plan, "analyse", analyse)
    monkeypatch.setattr(extend, "analyse", analyse)
    monkeypatch.setattr(extend, "word_verdict", lambda analysis: analysis.sentences[0])
    monkeypatch.setattr(page, "write_and_judge", lambda folder: None)


def planned(run: Path, needs: Sequence[Need], **more: Any) -> Plan:
    spec = stored_spec(run)
    said: Any = SimpleNamespace(objective=spec.objective, noise=more.pop("noise", "paper"), needs=tuple(needs))
    return plan.plan_needs(spec, load_space(spec), read_trials(run), said, **more)


def three_in_all(rows: list[dict[str, Any]]) -> list[Need]:
    # of the first two configurations, and of a noise, three repeats each
    first = [next(r["config"] for r in rows if r["number"] == i) for i in (0, 1)]
    short = {c: 3 - sum(r["config"] == c for r in rows) for c in first}
    return [*(Need(n, "few", config=c) for c, n in short.items() if n > 0), Need(3, "gap", noise=0.02)]


def test_extend_runs_each_requested_trial_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = sweep(tmp_path / "run", sampler="qmc", trials=8).run
    before = {r["digest"]: r for r in rows_of(run)}
    spec = stored_spec(run)
    winner = find_winner(spec, read_trials(run), spec.objective)
    assert winner is not None
    asks(monkeypatch, three_in_all)
    found = planned(run, three_in_all(rows_of(run)))
    capsys.readouterr()
    assert main(["extend", str(run), "--dry-run", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert sorted(p["digest"] for p in record["planned"]) == sorted(s.digest for s in found.specs)
    assert digests(run) == sorted(before)  # a dry run runs nothing
    assert main(["extend", str(run), *INLINE]) == 0
    rows = rows_of(run)
    new = [r for r in rows if r["digest"] not in before]
    assert [before.get(r["digest"], r) for r in rows] == rows  # what was there is untouched
    assert sorted(r["digest"] for r in new) == sorted(s.digest for s in found.specs)
    assert len(new) == 2 + 2 + 3
    assert {(r["number"], r["sampler"]) for r in new} == {(None, "extend")}
    level = [r for r in new if r["config"] not in {b["config"] for b in before.values()}]
    assert [r["noise_paper"] for r in level] == pytest.approx([0.02] * 3)
    kept = ("batch_size", "momentum", "weight_decay", "augmentation_strength")
    assert {tuple(r[k] for k in kept) for r in level} == {tuple(winner[k] for k in kept)}
    assert sorted(r["repeat"] for r in level) == [0, 1, 2]
    regime = fit_regime(read_trials(run))
    assert (regime.n_configs, regime.adaptive) == (len({r["config"] for r in rows if r["outcome"] == "ok"}), False)
    assert main(["extend", str(run), *INLINE]) == 0  # nothing is left
    assert "all further trials that can run have run" in capsys.readouterr().out
    assert rows_of(run) == rows


def test_an_interrupted_extension_continues_as_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, cut = (sweep(tmp_path / n, sampler="qmc", trials=8).run for n in ("whole", "cut"))
    asks(monkeypatch, three_in_all)
    assert main(["extend", str(whole), *INLINE]) == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        capsys.readouterr()
        assert main(["extend", str(cut), *INLINE]) == 130
        assert f"3 of 7 further trials are in {cut}; `sweeper extend {cut}` continues" in capsys.readouterr().err
    assert len(added(cut)) == 3
    asks(monkeypatch, lambda _: [Need(5, "seen halfway", noise=0.03)])  # it is not asked before the plan is done
    assert main(["extend", str(cut), "--dry-run", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["planned"]) == 4
    assert main(["extend", str(cut), *INLINE]) == 0
    assert digests(cut) == digests(whole)
    assert len(set(digests(cut))) == len(digests(cut)) == 15
    assert not (cut / "extension.json").exists()
    (cut / "extension.json").write_text("[1]")
    assert main(["extend", str(cut), *INLINE]) == 2
    assert "extension.json holds no plan" in capsys.readouterr().err


def test_a_design_continues_beside_its_extension(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = sweep(tmp_path / "plain", sampler="qmc", trials=8, repeats=2).run
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        sweep(run, sampler="qmc", trials=8, repeats=2)
    lost = next(r for r in rows_of(run) if (r["number"], r["repeat"]) == (1, 1))
    (run / "trials" / f"{lost['digest']}.parquet").unlink()
    asks(monkeypatch, lambda rows: [Need(3, "few", config=lost["config"]), Need(2, "gap", noise=0.02)])
    assert main(["extend", str(run), *INLINE]) == 0
    # the repeat that is missing is the sweep's own to fill
    assert sorted(r["repeat"] for r in added(run) if r["config"] == lost["config"]) == [2, 3, 4]
    extended = {r["digest"]: r for r in added(run)}
    sweeper.run(stored_spec(run))
    own = sorted(r["digest"] for r in rows_of(run) if r["number"] is not None)
    assert own == digests(plain)
    assert {r["digest"]: r for r in added(run)} == extended
    sweeper.run(stored_spec(run).model_copy(update={"trials": 10}))
    assert len(rows_of(run)) == 20 + len(extended)


def test_a_search_takes_other_repeats_than_its_extension(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sweeper.runner.session import Session

    run = sweep(tmp_path / "run", sampler="noise", trials=8).run
    config = rows_of(run)[0]["config"]
    asks(monkeypatch, lambda _: [Need(2, "few", config=config)])
    assert main(["extend", str(run), *INLINE]) == 0
    spec = stored_spec(run)
    session = Session(prepare(spec).with_constants(examples=720), run, spec.runtime(None))
    assert session.blocks.take(config, 8) == 3
    assert session.status.done == 8
    assert session.status.best == max(session.status.best or 0.0, 0.0)


def test_repeats_that_train_as_one_stack_come_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = sweep(tmp_path / "run", sampler="qmc", trials=3, repeats=2, stack="on").run
    config = rows_of(run)[0]["config"]
    found = planned(run, [Need(3, "few", config=config)])
    assert [s.repeat for s in found.specs] == [2, 3, 4, 5]
    assert {s.stack for s in found.specs} == {2}
    assert {s.config for s in found.specs} == {config}


def test_new_configurations_reach_the_noise_inside_the_ranges(tmp_path: Path) -> None:
    run = sweep(tmp_path / "run", sampler="qmc", trials=8).run
    asked = [Need(2, "gap", noise=v) for v in (1e-9, 3e-3, 5e-2, 1e6)]
    found = planned(run, asked)
    assert [p.noise for p in found.planned] == [3e-3, 5e-2]
    for p in found.planned:
        settings = {k: getattr(p.specs[0], k) for k in ("learning_rate", "batch_size", "momentum")}
        assert NOISE["paper"].predict(settings) == pytest.approx(p.noise)
    assert len(found.impossible) == 2
    assert all("outside the sweep's range 0.0003 to 3" in text for text in found.impossible)
    few = planned(run, asked, repeats=5, noises=2)  # the first two: one of them is out of range
    assert [len(p.specs) for p in few.planned] == [5]
    measured = planned(run, [Need(2, "gap", noise=0.1)], noise="paper_full")
    assert not measured.specs
    assert "cannot run noise 0.1" in measured.impossible[0]
    gone = planned(run, [Need(2, "few", config="0123456789abcdef")])
    assert "is not in the sweep" in gone.impossible[0]
    config = rows_of(run)[0]["config"]
    (one,) = planned(run, [Need(1, "a", config=config), Need(4, "b", config=config)]).planned
    assert (len(one.specs), one.why) == (4, "b")


def test_a_new_configuration_is_what_the_sweep_would_have_built(tmp_path: Path) -> None:
    run = sweep(tmp_path / "run", sampler="qmc", trials=8, seed=5).run
    (new,) = planned(run, [Need(1, "gap", noise=0.02)]).planned
    spec = stored_spec(run)
    space = load_space(spec)
    assert new.specs[0] == build(spec, space, space.params_of(new.specs[0]))
    assert new.specs[0].seed == 5


def test_a_learning_rate_that_is_fixed_cannot_be_solved_for(tmp_path: Path) -> None:
    run = sweep(tmp_path / "run", sampler="qmc", trials=6, fixed={"learning_rate": 0.1}).run
    found = planned(run, [Need(1, "gap", noise=0.02)])
    assert len(found.impossible) == 1
    assert "cannot run noise 0.02: learning_rate is not a knob of the sweep" in found.impossible[0]


def test_failures_are_tried_again_and_end_in_code_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sweeper.runner import jobs

    run = sweep(tmp_path / "run", sampler="qmc", trials=6).run
    asks(monkeypatch, lambda _: [Need(2, "gap", noise=0.02)])

    def broken(*_: Any) -> Any:
        raise RuntimeError("no device")

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "run_trials", broken)
        assert main(["extend", str(run), *INLINE]) == 3
    assert [r["outcome"] for r in added(run)] == ["failed", "failed"]
    capsys.readouterr()
    assert main(["extend", str(run), *INLINE, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outcomes"] == {"ok": 2}
    assert [r["outcome"] for r in added(run)] == ["ok", "ok"]


def test_the_trials_that_the_evidence_needs_suffice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = sweep(tmp_path / "run", sampler="qmc", trials=30, objective="gain_mean").run
    capsys.readouterr()
    assert main(["extend", str(run), *INLINE, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["outcomes"] == {"ok": len(record["planned"])}
    assert sorted(r["digest"] for r in added(run)) == sorted(p["digest"] for p in record["planned"])
    assert (record["verdict"], record["verdict_after"]) == ("undetermined", "hump")
    assert (run / "dashboard.html").is_file()  # whose rows without a number it copes with
    for command in ("status", "list"):
        assert main([command, str(run)]) == 0
    assert f"{'sampler':<21}extend, qmc" in capsys.readouterr().out


def test_a_firm_answer_needs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = sweep(tmp_path / "run", sampler="qmc", trials=6).run
    asks(monkeypatch, lambda _: [])
    assert main(["extend", str(run), *INLINE]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "undetermined: a fake",
        "no known further trials would decide it",
    ]
    assert added(run) == []


def test_what_cannot_be_extended_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = sweep(tmp_path / "run", sampler="qmc", trials=6).run

    def said(*argv: str) -> str:
        capsys.readouterr()
        code = main(["extend", *argv])
        captured = capsys.readouterr()
        assert (code, captured.out) == (2, "")
        assert captured.err.count("\n") == 1
        return captured.err

    (tmp_path / "empty").mkdir()
    assert "holds no sweep" in said(str(tmp_path / "empty"))
    assert "did you mean gain_mean" in said(str(run), "--objective", "gain_men")
    assert "unknown noise 'papr'; did you mean paper" in said(str(run), "--noise", "papr")
    assert "must be a whole number >= 1, got '0'" in said(str(run), "--repeats", "0")
    asks(monkeypatch, lambda _: [Need(1, "gap", noise=1e9)])
    assert main(["extend", str(run), *INLINE]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "cannot run noise 1e+09" in out
    assert "all further trials that can run have run" in out
