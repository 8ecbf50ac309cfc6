from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

import search_spaces
from search_spaces import Space, load, names
from search_spaces._plain import from_json, to_json
from search_spaces._space import SpaceError
from trainables.registry import UnknownName
from trainables.spec import PairSpec

WITH_SMALL_VARIANT = sorted(n for n in names() if load(n).smoke)
OF_THE_PAPER = ["cifar100_resnet18", "cifar100_vit", "cifar10_resnet18", "tinyimagenet_densenet121"]
ANY = CategoricalDistribution((64, 128))
every_space = pytest.mark.parametrize("name", names())


def _ends(distribution: BaseDistribution) -> list[Any]:
    return list(getattr(distribution, "choices", None) or (distribution.low, distribution.high))  # type: ignore[attr-defined]


def _point(space: Space) -> dict[str, Any]:
    return {knob: _ends(d)[0] for knob, d in space.knobs.items()}


def test_the_files_are_the_spaces() -> None:
    files = {path.stem for path in Path(search_spaces.__file__).parent.glob("*.py")}
    assert names() == sorted(name for name in files if not name.startswith("_"))
    assert all(load(name) for name in names())


@pytest.mark.parametrize(("name", "small"), [*((n, False) for n in names()), *((n, True) for n in WITH_SMALL_VARIANT)])
def test_every_space_builds_at_all_its_corners(name: str, small: bool) -> None:
    space = load(name).small() if small else load(name)
    assert space.name == name
    assert space.doc.endswith("(smoke variant)") == small
    for sentence in (space.doc, space.budget, space.source):
        assert len(sentence) > 10
    corners = [dict(zip(space.knobs, ends, strict=True)) for ends in product(*map(_ends, space.knobs.values()))]
    specs = [space.build(params) for params in corners]
    assert len({s.digest for s in specs}) == len(corners) >= 2 ** len(space.knobs)
    assert len({s.base_digest for s in specs}) == 1  # trials share their base
    for spec, params in zip(specs, corners, strict=True):
        assert space.params_of(spec) == space.active_params(params)
        assert PairSpec.from_json(spec.to_json()) == spec


def test_the_spaces_for_gpus_are_those_that_the_paper_asks_for() -> None:
    assert set(OF_THE_PAPER) <= set(WITH_SMALL_VARIANT)
    built = {n: load(n).build(_point(load(n))) for n in OF_THE_PAPER}
    assert {s.protocol for s in built.values()} == {"branch"}
    built["imagefolder_timm"] = load("imagefolder_timm").build(_point(load("imagefolder_timm")))
    for name, spec in built.items():
        small = load(name).small().build(_point(load(name).small()))
        assert (small.protocol, small.optimizer) == (spec.protocol, spec.optimizer)
        assert small.model.split(":")[:-1] == spec.model.split(":")[:-1]  # the same library's
        assert max(small.branch_step + 2 * small.steps, small.base.steps) <= 150
        assert (spec.autocast, small.autocast) == ("bfloat16", "")
    two = load("fashion_two_task")
    spec = two.build(_point(two))
    assert (spec.pair_kind, spec.dataset, spec.dataset_b) == ("two_task", "fashion_mnist", "mnist")
    assert spec.merges == ("linear", "task_arithmetic", "ties")


@every_space
def test_every_space_survives_pickling(name: str) -> None:
    space = load(name)
    again = pickle.loads(pickle.dumps(space))
    assert again == space
    assert again.name == name
    assert again.build(_point(space)).digest == space.build(_point(space)).digest
    with pytest.raises(TypeError):
        again.knobs["epochs"] = FloatDistribution(0, 1)


def test_digits_cnn_is_the_documented_setting() -> None:
    space = load("digits_cnn")
    spec = space.build(_point(space))
    assert (spec.dataset, spec.model, spec.epochs, spec.schedule, spec.optimizer) == (
        "digits",
        "small_cnn",
        8,
        "wsd",
        "sgd",
    )
    base = spec.base
    assert (base.steps, base.learning_rate, base.momentum, base.batch_size, base.seed) == (60, 0.02, 0.9, 32, 0)
    assert _ends(space.knobs["batch_size"]) == [8, 128]
    assert _ends(space.knobs["momentum"]) == [0.0, 0.5, 0.9, 0.95]
    assert _ends(space.knobs["weight_decay"]) == [1e-5, 3e-2]
    noisy = load("digits_label_noise")
    assert noisy.build(_point(noisy)).dataset_options == {"label_noise": 0.2}
    assert noisy.build(_point(noisy)).base.steps == 30
    assert noisy.knobs == space.knobs


def test_override_moves_fields_between_fixed_and_knobs() -> None:
    space = load("digits_cnn")
    changed = space.override(
        {"epochs": CategoricalDistribution((1, 2))}, {"momentum": 0.9, "dataset_options": {"label_noise": 0.1}}
    )
    assert set(changed.knobs) == set(space.knobs) - {"momentum"} | {"epochs"}
    assert changed.fixed["momentum"] == 0.9
    assert "epochs" not in changed.fixed
    assert (changed.name, changed.doc) == (space.name, space.doc)
    spec = changed.build({**_point(changed), "epochs": 2})
    assert (spec.epochs, spec.momentum, spec.dataset_options) == (2, 0.9, {"label_noise": 0.1})
    assert "momentum" in space.knobs  # the original stays as it was
    assert space.fixed["epochs"] == 8
    narrowed = space.override({"learning_rate": FloatDistribution(0.1, 0.2)}, {}, doc="narrow")
    assert _ends(narrowed.knobs["learning_rate"]) == [0.1, 0.2]
    assert narrowed.doc == "narrow"


def test_override_sets_entries_of_mappings_with_dots() -> None:
    space = load("digits_cnn").override({}, {"dataset_options.label_noise": 0.1, "base.steps": 3})
    spec = space.build(_point(space))
    assert (spec.dataset_options, spec.base.steps, spec.base.learning_rate) == ({"label_noise": 0.1}, 3, 0.02)
    with pytest.raises(SpaceError, match=r"epochs\.a sets an entry, but the field must then be a mapping, got 8"):
        space.override({}, {"epochs.a": 1})


def test_an_entry_of_a_field_is_a_knob() -> None:
    base = load("digits_cnn")
    ranges = {"base.steps": IntDistribution(1, 9), "optimizer_options.nesterov": CategoricalDistribution((True, False))}
    space = base.override(ranges, {})
    point = {**_point(base), "base.steps": 4, "optimizer_options.nesterov": True}
    spec = space.build(point)
    assert (spec.base.steps, spec.base.learning_rate, spec.optimizer_options) == (4, 0.02, {"nesterov": True})
    assert space.params_of(spec) == point
    assert spec.digest == base.build(_point(base), base=spec.base, optimizer_options={"nesterov": True}).digest
    assert set(space.override({}, {"base.steps": 3}).knobs) == set(space.knobs) - {"base.steps"}
    assert set(space.override({}, {"optimizer_options": {}}).knobs) == set(space.knobs) - {"optimizer_options.nesterov"}
    with pytest.raises(SpaceError, match=r"has no optimizer_options\.nesterov, which is a knob"):
        space.params_of(base.build(_point(base)))
    with pytest.raises(SpaceError, match=r"base\.steps is both fixed and a knob"):
        replace(base, knobs={**base.knobs, "base.steps": IntDistribution(1, 9)})
    with pytest.raises(SpaceError, match=r"optimizer_options\.eps is an entry of optimizer_options, and both"):
        replace(base, fixed={}, knobs={"optimizer_options": ANY, "optimizer_options.eps": ANY})
    assert from_json(to_json(space)).build(point).digest == spec.digest


def test_an_entry_acts_under_its_condition() -> None:
    base = load("digits_cnn")
    space = base.override(
        {"optimizer_options.nesterov": CategoricalDistribution((True, False))},
        {},
        {"optimizer_options.nesterov": {"momentum": (0.9, 0.95)}},
    )
    still = {**_point(base), "momentum": 0.0}
    spec = space.build({**still, "optimizer_options.nesterov": True})
    assert spec.optimizer_options == {}
    assert space.params_of(spec) == still


def test_a_space_says_what_every_sweep_has_to_set() -> None:
    space = load("text_lora")
    with pytest.raises(SpaceError, match=r"'text_lora' needs --set model=hf:FOLDER --set dataset_options.tokenizer=FO"):
        space.check_needs([])
    with pytest.raises(SpaceError, match=r"needs --set model=hf:FOLDER$"):
        space.check_needs(["dataset_options.path", "dataset_options.tokenizer"])
    for given in ("dataset", "dataset_options"):
        space.check_needs(["model", given])
    space.small().check_needs([])
    assert pickle.loads(pickle.dumps(space)).needs == space.needs


def test_a_smoke_variant_replaces_values_and_ranges() -> None:
    space = Space(
        "d", {"dataset": "a", "model": "m", "steps": 9}, {"learning_rate": FloatDistribution(0, 1), "batch_size": ANY},
        smoke={"steps": 2, "batch_size": CategoricalDistribution((4, 8)), "model_options.width": 8}, name="big",
    )  # fmt: skip
    small = pickle.loads(pickle.dumps(space)).small()
    assert (small.fixed["steps"], small.fixed["model_options"], small.name) == (2, {"width": 8}, "big")
    assert small.knobs["batch_size"].choices == (4, 8)
    assert small.doc == "d (smoke variant)"
    with pytest.raises(SpaceError, match="space 'big' has no smoke variant"):
        small.small()
    with pytest.raises(SpaceError, match="unknown pair spec field 'widht'"):
        Space("d", {}, {}, smoke={"widht": 3})


def test_more_fields_win_over_fixed_ones() -> None:
    space = load("digits_cnn")
    assert space.build(_point(space), seed=3, repeat=2, epochs=1) == space.override({}, {"epochs": 1}).build(
        _point(space), seed=3, repeat=2
    )


def test_build_needs_every_knob_and_no_other() -> None:
    space = load("digits_cnn")
    point = _point(space)
    with pytest.raises(SpaceError, match="space 'digits_cnn' needs a value of momentum"):
        space.build({k: v for k, v in point.items() if k != "momentum"})
    with pytest.raises(SpaceError, match="unknown knob of space 'digits_cnn': 'momentums'; did you mean momentum"):
        space.build({**point, "momentums": 0.5})
    with pytest.raises(SpaceError, match="unknown knob of space 'digits_cnn': 'epochs'"):
        space.build({**point, "epochs": 1})  # fixed in this space
    with pytest.raises(ValueError, match=r"momentum must lie in \[0, 1\), got 1.5"):
        space.build({**point, "momentum": 1.5})


def test_a_space_checks_its_fields() -> None:
    with pytest.raises(SpaceError, match="unknown pair spec field 'learning_rat'; did you mean learning_rate"):
        Space("d", {}, {"learning_rat": FloatDistribution(0, 1)})
    with pytest.raises(SpaceError, match="unknown pair spec field 'epoch'; did you mean epochs"):
        Space("d", {"epoch": 3}, {})
    with pytest.raises(SpaceError, match="momentum is both fixed and a knob; keep one"):
        Space("d", {"momentum": 0.9}, {"momentum": FloatDistribution(0, 0.9)})


# -- a user's own file ------------------------------------------------------------------------------------------------

FILE = '''
"""My space; größer als nötig."""
from optuna.distributions import FloatDistribution
from search_spaces import Space

SPACE = Space(
    doc="one knob",
    fixed={"dataset": "mine", "model": "mine", "batch_size": 16},
    knobs={"learning_rate": FloatDistribution(1e-3, 1.0, log=True)},
)
'''


def test_a_users_file_is_a_space_whose_text_travels_with_the_trials(tmp_path: Path) -> None:
    path = tmp_path / "my_space.py"
    path.write_text(FILE, encoding="utf-8")
    space = load(str(path))
    assert space.name == "my_space"
    spec = space.build({"learning_rate": 0.1})
    assert (spec.source, spec.dataset, spec.batch_size) == (FILE, "mine", 16)
    # the digest is the text's, not the path's
    other = tmp_path / "elsewhere.py"
    other.write_text(FILE, encoding="utf-8")
    assert load(str(other)).build({"learning_rate": 0.1}).digest == spec.digest
    path.write_text(FILE + "# changed\n", encoding="utf-8")
    assert load(str(path)).build({"learning_rate": 0.1}).digest != spec.digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SPACE = 3\n", "bad.py must define SPACE = Space(...), got int"),
        ("x = 1\n", "bad.py must define SPACE = Space(...), got NoneType"),
        ("a = 1\nb = [\n", "bad.py, line 2: SyntaxError: '[' was never closed"),
        (
            "from search_spaces import Space\n\nSPACE = Space('d', {'epoch': 1}, {})\n",
            "bad.py, line 3: SpaceError: unknown pair spec field 'epoch'; did you mean epochs?",
        ),
    ],
    ids=["not a space", "no space", "syntax", "wrong field"],
)
def test_bad_files_say_where_and_why(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text(text)
    with pytest.raises(SpaceError) as error:
        load(str(path))
    assert message in str(error.value)


def test_files_that_cannot_be_read_and_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"cannot read the space file .*none\.py: .*No such file"):
        load(str(tmp_path / "none.py"))
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpaceError, match=r"cannot read the space file .*binary\.py"):
        load(str(tmp_path / "binary.py"))
    with pytest.raises(UnknownName, match="unknown space 'digit_cnn'; did you mean digits_cnn"):
        load("digit_cnn")
    with pytest.raises(UnknownName, match="unknown space 'space'"):
        load("space")
