"""The answer of a sweep: at most twelve lines, the confirmed scores, remarks only where they are true."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweeper.analysis.posterior import Posterior
from sweeper.analysis.scorecard.answer import MOST_LINES, Answer, find_answer, format_answer
from sweeper.config.spec import SweepSpec
from sweeper.storage.run_folder import stored_spec
from sweeper.storage.space_data import known_space
from tests.support.inline_sweeps import PLAIN, sweep
from tests.support.trial_rows import hump, table, trial
from tests.support.trial_rows import sweep as rows_of

SPEC = SweepSpec(space="digits_label_noise", objective="gain_mean", noise="paper", trials=1)


def answer_of(rows: list[dict[str, Any]], spec: SweepSpec = SPEC) -> Answer:
    return find_answer(spec, None, table(rows), Posterior(undecided="not asked"), "runs/a b", "runs/a b/dashboard.html")


def test_a_confirmed_sweep_reports_the_fresh_pairs_on_test(tmp_path: Path) -> None:
    results = sweep(tmp_path, sampler="noise", objective="gain_mean", trials=40, seed=1)
    spec = stored_spec(tmp_path)
    answer = find_answer(spec, known_space(spec).space, results.trials, Posterior(), str(tmp_path))
    rows = [r for r in results.trials.to_pylist() if r["stage"] == "report"]
    gains = [r["gain_mean_loss_test"] for r in rows]
    assert answer.expected is not None
    assert answer.expected.mean == pytest.approx(np.mean(gains))
    assert answer.expected.error == pytest.approx(np.std(gains, ddof=1) / math.sqrt(len(gains)))
    assert answer.confirmed == len(gains) == 4
    assert answer.scores["merged"]["loss"].mean == pytest.approx(np.mean([r["merged_loss_test"] for r in rows]))
    assert answer.settings is not None
    assert set(answer.settings) == {
        "learning_rate", "batch_size", "momentum", "weight_decay", "augmentation_strength"
    }  # fmt: skip
    assert answer.settings["learning_rate"] == rows[0]["learning_rate"]
    text = format_answer(answer.record())
    assert len(text.splitlines()) <= MOST_LINES
    assert "4 fresh pairs" in text
    assert "lowest merged loss" not in text  # confirmed settings serve both goals
    # the weights of the winner are kept, whatever leads by luck
    assert (tmp_path / "weights").is_dir() is False or answer.digest in {
        p.stem for p in (tmp_path / "weights").iterdir()
    }


def test_an_unconfirmed_answer_says_so(tmp_path: Path) -> None:
    results = sweep(tmp_path, sampler="noise", objective="gain_mean", trials=12, **PLAIN)
    spec = stored_spec(tmp_path)
    answer = find_answer(spec, None, results.trials, Posterior(), str(tmp_path))
    assert (answer.confirmed, answer.verdict) == (0, "Undetermined")
    assert answer.certainty.startswith("not confirmed")
    (line,) = [part for part in format_answer(answer.record()).splitlines() if part.startswith("expect:")]
    assert line.endswith("(observed in 1 pair)")  # no model stands behind it
    assert "have run" not in answer.certainty


def test_an_unfinished_sweep_is_resumed(tmp_path: Path) -> None:
    results = sweep(tmp_path, sampler="noise", objective="gain_mean", trials=12, **PLAIN)
    spec, first = stored_spec(tmp_path), results.trials.slice(0, 5)
    answer = find_answer(spec, None, first, Posterior(), "runs/a")
    assert answer.next == "sweeper resume runs/a"
    assert answer.certainty.endswith("; 5 of 12 configurations have run")
    assert find_answer(spec, None, results.trials, Posterior(), "runs/a").next == "sweeper extend runs/a"


def test_a_merge_that_is_no_better_than_its_parents_says_so() -> None:
    rows = rows_of(hump, 30, 5)
    scores = {"merged_accuracy_test": 0.9, "a_accuracy_test": 0.92, "b_accuracy_test": 0.9}
    (remark,) = [r for r in answer_of([{**r, **scores} for r in rows]).remarks if "no more accurate" in r]
    assert "(90 % against 91 %)" in remark
    close = {**scores, "merged_accuracy_test": 0.90996}
    (remark,) = [r for r in answer_of([{**r, **close} for r in rows]).remarks if "as accurate" in r]
    assert remark == "on test the merge is as accurate as its parents (91 %)"
    better = {**scores, "merged_accuracy_test": 0.93}
    assert not [r for r in answer_of([{**r, **better} for r in rows]).remarks if "no more accurate" in r]


def test_unconfirmed_settings_of_the_largest_gain_name_the_command_for_the_lowest_loss() -> None:
    rows = [trial(f"c{i}", 0.1 - 0.01 * i, learning_rate=0.1 + i, merged_loss_val=0.3 - 0.01 * i) for i in range(8)]
    (remark,) = [r for r in answer_of(rows).remarks if "lowest merged loss" in r]
    assert remark.endswith("sweeper recommend 'runs/a b' --objective merged_loss")


def test_without_a_viable_pair_there_is_nothing_to_use() -> None:
    answer = answer_of([trial(f"c{i}", None, learning_rate=0.1 + i, outcome="diverged") for i in range(8)])
    assert answer.settings is None
    assert answer.expected is None
    text = format_answer(answer.record())
    assert "no pair is viable" in text
    assert "use:" not in text


def test_a_sweep_that_ended_before_its_first_trial_is_resumed() -> None:
    answer = answer_of([])
    assert answer.next == "sweeper resume 'runs/a b'"
    assert answer.certainty == "no trial has finished, so there is nothing to use yet"
    assert "viable pair" not in format_answer(answer.record())


def test_a_merge_that_is_less_accurate_than_another_model_says_so() -> None:
    rows = rows_of(hump, 30, 5)
    assert not [r for r in answer_of(rows).remarks if "less accurate" in r]
    worse = [{**r, "chosen_accuracy_val": 0.8, "merged_accuracy_val": 0.85, "a_accuracy_val": 0.9} for r in rows]
    worse = [{**r, "chosen_merge": "ties", "chosen_coefficient": 0.4} for r in worse]
    answer = answer_of(worse)
    (remark,) = [r for r in answer.remarks if "less accurate" in r]
    assert remark.endswith("is less accurate (80 %) than linear 1/2 (85 %) and the better parent (90 %)")
    assert answer.remarks[0] == remark


def test_a_full_block_keeps_the_note_on_accuracy_and_drops_what_matters_less() -> None:
    more = {"chosen_accuracy_val": 0.8, "a_accuracy_val": 0.9, "chosen_merge": "ties", "chosen_coefficient": 0.4}
    record = answer_of([{**r, **more} for r in rows_of(hump, 30, 5)]).record()
    note, *_ = record["remarks"]
    full = {
        **record, "reason": "a long reason " * 14, "certainty": "a long doubt " * 16, "page": "page.html",
        "origin": "networks trained elsewhere", "remarks": [note, *["something else to say " * 2] * 4],
        "settings": {f"knob_{i}": i for i in range(30)},
    }  # fmt: skip
    text = format_answer(full)
    assert len(text.splitlines()) <= MOST_LINES
    assert "is less accurate (80 %) than" in text
    assert f"next:    {record['next']}" in text
    assert "knob_29 29" in text or "knob 29 29" in text
    assert "something else" not in text
    shorter = format_answer({**full, "reason": "short", "certainty": "short", "settings": record["settings"]})
    assert "something else" in shorter


def test_the_next_command_follows_from_the_verdict() -> None:
    hump_answer = answer_of(rows_of(hump, 30, 5))
    assert hump_answer.verdict == "Hump"
    assert hump_answer.next == "sweeper best 'runs/a b' --save merged.safetensors"
    few = answer_of(rows_of(hump, 5, 1))
    assert few.next == "sweeper extend 'runs/a b'"
    closed_form = answer_of([{**row, "trainable": "synthetic"} for row in rows_of(hump, 40, 0)])
    assert closed_form.next == "sweeper recommend 'runs/a b'"  # it has no weights to save


def test_a_winner_at_an_end_of_its_range_says_so(tmp_path: Path) -> None:
    knobs = {"batch_size": {"min": 8, "max": 64}, "momentum": {"values": [0.5, 0.9, 0.95]}}
    point = {"learning_rate": 0.01, "batch_size": 8, "momentum": 0.95}
    more = {"parameters": knobs, "enqueue": [point], "fixed": {"weight_decay": 0.0, "augmentation_strength": 0.0}}
    results = sweep(tmp_path, sampler="random", objective="gain_mean", trials=1, **more, **PLAIN)
    answer = find_answer(stored_spec(tmp_path), known_space(stored_spec(tmp_path)).space, results.trials, Posterior(),
                         str(tmp_path))  # fmt: skip
    (remark,) = [r for r in answer.remarks if "of its range" in r]
    assert remark == (
        "batch size lies at the lower end of its range and momentum lies at the upper end of its range: a wider range "
        "may hold better settings"
    )
    # the block keeps its size, whatever there is to say
    many = {**answer.record(), "remarks": ["something long to say " * 8] * 9}
    assert len(format_answer(many).splitlines()) <= MOST_LINES
