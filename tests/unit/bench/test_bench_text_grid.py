"""The grid of the small GPT: its pairs, and by which factor a best noise moves, on tables with known answers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def grid(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "bench"))
    import bench_text_grid  # pyright: ignore[reportMissingImports]

    return bench_text_grid


def _cells(best: dict[int, float], rates: list[float]) -> dict[int, dict[float, list[dict[str, Any]]]]:
    # parabolas of ln eta; the measured noise falls as eta^-1/2 and as 1/B, and is missing at the ends
    return {
        batch: {
            rate: [{"outcome": "ok", "gain": -(math.log(rate / top) ** 2), "noise_adam_sde": rate / batch**0.5,
                    "noise_critical_ratio": rate**-0.5 / batch if rates[0] < rate < rates[-1] else None}]
            for rate in rates
        }
        for batch, top in best.items()
    }  # fmt: skip


def test_noises_move_as_the_best_learning_rates_say(grid: Any) -> None:
    rates = [1e-3 * 1.6**k for k in range(8)]
    cells = _cells({8: 4e-3, 32: 6e-3}, rates)
    names = ["noise_adam_sde", "noise_critical_ratio"]
    found = grid.moves(cells, "gain", 1.0, names)
    assert found["small"] == pytest.approx(4e-3)
    assert found["learning_rate"] == pytest.approx(1.5)
    assert found["noise_adam_sde"] == pytest.approx(1.5 / 2)
    assert found["noise_critical_ratio"] == pytest.approx(1.5**-0.5 / 4)
    assert grid.moves_of_pairs(cells, "gain", 1.0, names)["noise_adam_sde"] == [pytest.approx(0.75)]


def test_a_best_at_an_end_moves_by_no_factor(grid: Any) -> None:
    cells = _cells({8: 4e-3, 32: 1.0}, [1e-3 * 1.6**k for k in range(8)])
    found = grid.moves(cells, "gain", 1.0, ["noise_adam_sde"])
    assert found["large"] is None
    assert "noise_adam_sde" not in found


def test_pairs_that_are_not_viable_leave_the_curve(grid: Any) -> None:
    rates = [1e-3 * 1.6**k for k in range(8)]
    cells = _cells({8: 4e-3, 32: 4e-3}, rates)
    for of in cells.values():
        of[rates[-1]][0] |= {"outcome": "not_viable", "gain": 9.0}
    assert grid.moves(cells, "gain", 1.0, [])["learning_rate"] == pytest.approx(1.0)


def test_the_rule_holds_at_the_small_batch_size_and_moves_the_betas_at_the_large_one(grid: Any) -> None:
    specs = list(grid.SERIES["adamw_rule"].specs())
    assert len(specs) == len({s.digest for s in specs}) == 24
    assert {s.batch_size for s in specs} == {grid.LARGE}
    assert specs[0].betas == pytest.approx((0.6, 0.996))
    plain = next(iter(grid.SERIES["adamw"].specs()))
    assert (plain.batch_size, plain.betas) == (grid.SMALL, (0.9, 0.999))
    clean, noisy = (list(grid.SERIES[f"label_noise_{s}"].specs()) for s in ("0", "0.2"))
    assert {s.dataset_options.get("label_noise", 0.0) for s in noisy} == {0.2}
    assert [s.learning_rate for s in clean] == [s.learning_rate for s in noisy]
    assert {s.digest for s in clean} & {s.digest for s in grid.SERIES["adamw"].specs()}
