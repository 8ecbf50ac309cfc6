"""A file and the keys on top of it make one sweep, which is prepared once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from search_spaces import Space
from sweeper.config.load import SpecSource, load_sweep
from sweeper.errors import SpecError
from sweeper.runner.run import run_prepared


def test_mappings_change_entry_by_entry_and_objectives_as_a_whole() -> None:
    values = {
        "space": "digits_cnn",
        "objective": "gain_mean",
        "further_objectives": ["barrier"],
        "fixed": {"epochs": 2},
        "parameters": {"momentum": {"values": [0.0, 0.9]}, "learning_rate": {"min": 0.1, "max": 1.0}},
        "resources": {"cpus_per_rank": 2, "ranks_per_member": 1},
    }
    lines = {"objective": 2, "fixed.epochs": 4, "fixed.momentum": 5, "resources.cpus_per_rank": 6}
    changes = {"objective": "barrier", "fixed": {"momentum": 0.5}, "resources": {"cpus_per_rank": 3}}
    source = SpecSource(values, lines, "sweep.yaml").override(changes)
    spec = source.prepare().spec
    assert spec.objectives == ("barrier",)
    assert (spec.fixed, list(spec.parameters)) == ({"epochs": 2, "momentum": 0.5}, ["learning_rate"])
    assert (spec.resources.cpus_per_rank, spec.resources.ranks_per_member) == (3, 1)
    assert source.lines == {"fixed.epochs": 4}


def test_a_wrong_mapping_of_the_file_is_refused_with_its_line() -> None:
    source = SpecSource({"space": "digits_cnn", "fixed": 3}, {"fixed": 2}, "sweep.yaml")
    with pytest.raises(SpecError, match="fixed: must be a mapping, got 3"):
        source.override({"fixed": {"momentum": 0.5}}).prepare()


def test_a_run_builds_each_trial_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build, calls = Space.build, list[Any]()

    def count(space: Space, params: Any, **more: Any) -> Any:
        calls.append(params)
        return build(space, params, **more)

    monkeypatch.setattr(Space, "build", count)
    flags = {"trials": 2, "repeats": 3, "runner": "inline", "out": str(tmp_path / "run")}
    sweep = load_sweep("synthetic", flags)
    assert len(calls) == len(sweep.corners)
    run_prepared(sweep)
    assert len(calls) == len(sweep.corners) + 2
