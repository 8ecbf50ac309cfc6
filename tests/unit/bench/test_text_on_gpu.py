"""The bench of text on a GPU runs on a CPU in small, and has the models of the spaces in full."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from search_spaces import load
from tests.bench.text_on_gpu import FULL, TINY, make_files, make_specs, measure_text
from trainables.runtime import Runtime
from trainables.spec import PairSpec
from trainables.trial import run_trials


def test_the_text_spaces_are_measured_in_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"

    def run(name: str, spec: dict[str, Any]) -> dict[str, Any]:
        runtime = Runtime(data_root=str(root), measure=0)
        result = run_trials([PairSpec.from_mapping(spec)], runtime)[0].result
        assert result.outcome == "ok", result.outcome_detail
        return result.to_row() | {"wall": 1.0}

    specs = make_specs(root, make_files(root, TINY), TINY)
    capsys.readouterr()
    rows = measure_text(run, specs)
    kinds = ["shakespeare_gpt B=8", "tinystories_gpt B=8", "text_lora float32 B=8", "text_lora bfloat16 B=8"]
    assert [row["name"] for row in rows] == kinds
    assert all(row["step_seconds"] > 0 and row["tokens_per_example"] == 8 for row in rows)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(kinds)
    assert lines[0].split()[:4] == ["pair", "parameters", "ms/step", "tokens/s"]
    assert all(float(line.split()[-5].replace(",", "")) > 0 for line in lines[1:])


def test_the_full_bench_has_the_models_of_the_spaces(tmp_path: Path) -> None:
    specs = make_specs(tmp_path, tmp_path / "model", FULL)
    assert len(specs) == 9
    for name, spec in specs.items():
        fixed = load(name.split()[0]).fixed
        assert name.endswith(f"B={spec['batch_size']}")
        assert spec["steps"] or spec["epochs"] == fixed["epochs"]
        for field in ("model_options", "adapter"):
            assert {**fixed.get(field, {}), **spec.get(field, {})} == {**spec.get(field, {}), **fixed.get(field, {})}
