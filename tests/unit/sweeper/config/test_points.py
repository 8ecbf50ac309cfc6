"""What is known before a sweep: optimal noises of earlier ones, configurations to try first."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweeper import SpecError, SweepSpec
from sweeper.analysis.curve.prior import read_prior
from sweeper.cli.main import main
from sweeper.config.fields import PriorNoise
from sweeper.config.load import load_sweep
from sweeper.config.prior import pool_priors
from sweeper.search.samplers import SAMPLERS
from sweeper.storage.run_folder import stored_spec
from sweeper.storage.tables import read
from tests.support.inline_sweeps import digests, lose, origins, sweep
from trainables.pair.synthetic import BEST_NOISE
from trainables.spec import PairSpec

POINTS: list[dict[str, Any]] = [
    {"learning_rate": 0.05, "batch_size": 32, "momentum": 0.9, "weight_decay": 1e-4, "augmentation_strength": 0.5},
    {"learning_rate": 0.02},
    {},
]


# -- configurations to try first ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_given_configurations_are_the_first_numbers_and_never_twice(tmp_path: Path, sampler: str) -> None:
    more: dict[str, Any] = {"sampler": sampler, "enqueue": POINTS, "trials": 7}
    whole = sweep(tmp_path / "whole", **more)
    first, second = (PairSpec.from_json(text) for text in whole.trials["spec"].to_pylist()[:2])
    assert {k: getattr(first, k) for k in POINTS[0]} == POINTS[0]
    assert second.learning_rate == 0.02
    assert second.batch_size != first.batch_size  # the sampler's own
    assert Counter(origins(whole.run)[:3]) == {"enqueued": 3}
    assert "enqueued" not in origins(whole.run)[3:]
    lose(whole.run, 1, 6)
    again = sweep(tmp_path / "whole", **more)
    assert again.trials["number"].to_pylist() == list(range(7))
    assert digests(again)[0] == digests(whole)[0]
    assert [PairSpec.from_json(t).learning_rate for t in again.trials["spec"].to_pylist()].count(0.02) == 1
    if sampler in ("noise", "random", "qmc", "grid"):  # functions of seed and number
        assert digests(again) == digests(whole)


def test_a_design_is_the_same_after_what_is_given(tmp_path: Path) -> None:
    plain = sweep(tmp_path / "plain", trials=5)
    given = sweep(tmp_path / "given", trials=6, enqueue=[{"learning_rate": 0.02}])
    assert digests(given)[1:] == digests(plain)
    grid: dict[str, Any] = {
        "sampler": "grid",
        "fixed": {"learning_rate": 0.1, "batch_size": 16, "weight_decay": 1e-4, "augmentation_strength": 0.0},
        "parameters": {"momentum": {"values": [0.0, 0.5, 0.9]}},
    }
    results = sweep(tmp_path / "grid", trials=9, enqueue=[{"momentum": 0.5}], **grid)
    # the given one, then the whole grid: the second draw of 0.5 has other seeds
    assert Counter(results.trials["momentum"].to_pylist()) == {0.0: 1, 0.5: 2, 0.9: 1}


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"learning_rat": 0.1}, "configuration 2 of enqueue: unknown knob 'learning_rat'; did you mean learning_rate?"),
        (
            {"learning_rate": 30},
            "configuration 2 of enqueue: learning_rate must be in [0.0003, 3], got 30; "
            "change its range under parameters, or leave the knob out",
        ),
        ({"momentum": 0.7}, "momentum must be one of 0.0, 0.5, 0.9, 0.95, got 0.7; change"),
        ({"batch_size": 8.5}, "batch_size must be whole and in [8, 128], got 8.5"),
        ({"weight_decay": "much"}, "weight_decay must be in [1e-05, 0.03], got 'much'"),
    ],
)
def test_a_wrong_configuration_is_named_before_anything_starts(
    tmp_path: Path, point: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError) as error:
        sweep(tmp_path / "run", enqueue=[{}, point])
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_there_are_no_more_given_configurations_than_trials(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="enqueue: must be at most trials = 2 configurations, got 3"):
        SweepSpec.checked({"space": "synthetic", "trials": 2, "enqueue": POINTS})


def test_files_of_configurations(tmp_path: Path) -> None:
    (tmp_path / "points.yaml").write_text(yaml.safe_dump(POINTS))
    (tmp_path / "points.json").write_text(json.dumps(POINTS))
    (tmp_path / "points.csv").write_text("learning_rate,momentum\n0.05,0.9\n0.02,\n")
    read_back = {
        f: load_sweep("synthetic", {"enqueue": str(tmp_path / f)}).spec for f in ("points.yaml", "points.json")
    }
    assert all(list(spec.enqueue) == POINTS for spec in read_back.values())
    arguments = ["run", "synthetic", "--runner", "inline", "--trials", "3", "--sampler", "tpe", "--out"]
    assert main([*arguments, str(tmp_path / "a"), "--enqueue", str(tmp_path / "points.csv")]) == 0
    rows = read(tmp_path / "a", "trials").sort_by("number").to_pylist()
    assert (rows[0]["learning_rate"], rows[0]["momentum"]) == (0.05, 0.9)
    assert rows[1]["learning_rate"] == 0.02
    # what another sweep exported, to which the failed ones do not belong
    assert main(["export", str(tmp_path / "a"), "--out", str(tmp_path / "trials.csv")]) == 0
    text = (tmp_path / "trials.csv").read_text()
    assert main([*arguments, str(tmp_path / "b"), "--enqueue", str(tmp_path / "trials.csv")]) == 0
    assert digests_of(tmp_path / "b") == digests_of(tmp_path / "a")
    (tmp_path / "trials.csv").write_text(text.replace('"ok"', '"diverged"', 1))
    assert len(load_sweep("synthetic", {"enqueue": str(tmp_path / "trials.csv")}).spec.enqueue) == 2


def digests_of(run: Path) -> list[str]:
    return read(run, "trials").sort_by("number")["digest"].to_pylist()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.yaml", None, "cannot read .*none.yaml: No such file"),
        ("a.yaml", "learning_rate: 0.1", "a.yaml must be a list of configurations, such as `- {learning_rate: 0.1}`"),
        ("a.yaml", "[]", "a.yaml must be a list"),
        ("a.yaml", "- [", "a.yaml, line 2: not YAML: "),
        ("a.csv", "learning_rat\n0.1\n", "a.csv: configuration 1 of enqueue: unknown knob 'learning_rat'"),
    ],
)
def test_a_file_that_holds_no_configurations(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(SpecError, match=message):
        load_sweep("synthetic", {"enqueue": str(tmp_path / name)})


# -- optimal noises of earlier sweeps ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("earlier") / "run"
    sweep(run, trials=40, objective="gain_mean")
    return run


def test_a_sweep_stores_the_numbers_of_its_prior(earlier: Path, tmp_path: Path) -> None:
    more: dict[str, Any] = {"sampler": "noise", "objective": "gain_mean", "trials": 4}
    results = sweep(tmp_path / "run", prior=[str(earlier)], **more)
    (prior,) = stored_spec(results.run).prior
    assert isinstance(prior, PriorNoise)
    assert BEST_NOISE / 2 < prior.low <= prior.best <= prior.high < BEST_NOISE * 2
    assert prior.source == str(earlier)
    # the folder stands alone, and the same prior from elsewhere is the same sweep
    again = sweep(tmp_path / "run", prior=[{**prior.model_dump(), "source": "elsewhere"}], **{**more, "trials": 6})
    assert again.trials.num_rows == 6
    with pytest.raises(SpecError, match=r"holds another sweep \(prior is \[\{'best'"):
        sweep(tmp_path / "run", **more)


def test_what_cannot_be_a_prior_is_refused(earlier: Path, tmp_path: Path) -> None:
    sweep(tmp_path / "short", trials=2)
    (tmp_path / "empty").mkdir()
    adam = sweep(tmp_path / "adam", trials=8, fixed={"optimizer": "adamw", "momentum": 0.0}).run
    for folder, message in {
        "none": "there is no folder .*none",
        "empty": "empty holds no sweep: sweep.yaml is missing",
        "short": "short has no optimum for merged_loss: .* the fit needs 6.*; run more trials there, or leave",
        adam: r"noise 'paper' is not defined for the trials in .*adam \(optimizer adamw\); leave .* out of the prior",
    }.items():
        with pytest.raises(SpecError, match=message):
            sweep(tmp_path / "run", sampler="noise", prior=[str(tmp_path / folder)])
    with pytest.raises(SpecError, match="prior: only sampler noise takes a prior, got gp; for other samplers enqueue"):
        SweepSpec.checked({"space": "synthetic", "sampler": "gp", "prior": [str(earlier)]})
    with pytest.raises(SpecError, match="must have low <= best <= high, got 2, 1 and 3"):
        SweepSpec.checked({"space": "synthetic", "prior": [{"best": 1, "low": 2, "high": 3}]})
    assert not (tmp_path / "run").exists()


def test_closed_forms_as_a_prior_for_networks_are_doubted(earlier: Path) -> None:
    said: list[str] = []
    assert read_prior(str(earlier), "gain_mean", "paper", "pair", said.append).best > 0
    assert said == [f"warning: the trials in {earlier} are synthetic, not pair; their optimum may differ"]


def test_folders_in_a_file_count_from_it(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text("space: synthetic\nprior: [runs/a, {best: 0.01, low: 0.005, high: 0.02}]\n")
    folder, number = load_sweep(str(path)).spec.prior
    assert (folder, number) == (str(tmp_path / "runs" / "a"), PriorNoise(best=0.01, low=0.005, high=0.02))


def test_priors_are_pooled_by_precision_and_their_spread_is_added() -> None:
    def at(centre: float, half: float) -> PriorNoise:
        return PriorNoise(best=math.exp(centre), low=math.exp(centre - half), high=math.exp(centre + half))

    assert pool_priors([]) is None
    one = pool_priors([PriorNoise(best=0.01, low=0.002, high=0.03)])
    assert one is not None
    assert (one.best, one.low, one.high) == (0.01, 0.002, 0.03)
    # runs that agree: the mean's interval shrinks with their number
    same = pool_priors([at(-4.0, 0.8), at(-4.0, 0.8), at(-4.0, 0.8), at(-4.0, 0.8)])
    assert same is not None
    assert math.log(same.best) == pytest.approx(-4.0)
    assert math.log(same.high / same.best) == pytest.approx(0.4)
    # the sharper one weighs more: 1 to 16
    uneven = pool_priors([at(-4.0, 0.4), at(-3.9, 1.6)])
    assert uneven is not None
    assert math.log(uneven.best) == pytest.approx((16 * -4.0 - 3.9) / 17)
    # runs that contradict each other leave a wide interval, around both
    apart = pool_priors([at(-6.0, 0.2), at(-2.0, 0.2)])
    assert apart is not None
    assert math.log(apart.best) == pytest.approx(-4.0)
    assert math.log(apart.low) < -6.0
    assert math.log(apart.high) > -2.0
