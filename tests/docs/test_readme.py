"""The README stays complete and its commands parse: names, columns, flags, code."""

import dataclasses
import itertools
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest

import search_spaces
from sweeper.cli.main import cli, main
from sweeper.config.resources import Resources
from sweeper.search.objectives import OBJECTIVES
from sweeper.search.samplers import SAMPLERS
from sweeper.storage.schema import SCHEMAS
from trainables.datasets.augmentation import AUGMENTATIONS
from trainables.datasets.load import DATASETS
from trainables.merging.coefficient_grid import GREEDY
from trainables.merging.methods import MERGES
from trainables.models.registry import MODELS
from trainables.noise import FAMILIES, NOISE
from trainables.pair.caveats import KEYS
from trainables.registry import Registry
from trainables.result import Outcome
from trainables.spec import PairSpec

README = (Path(__file__).parents[2] / "README.md").read_text()


def table(head: str) -> list[list[str]]:
    """Return the cells of the rows of the table whose first header cell is `head`."""
    lines = README.split(f"| {head} |", 1)[1].splitlines()[2:]
    rows = list(itertools.takewhile(lambda line: line.startswith("|"), lines))
    return [[c.strip() for c in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def _commands() -> dict[str, click.Command]:
    context = click.Context(cli)
    return {name: cli.get_command(context, name) for name in cli.list_commands(context)}  # type: ignore[misc]


def _flags(command: click.Command) -> set[str]:
    return {flag for p in command.params for flag in p.opts if flag.startswith("--")}


def _parse(argv: list[str]) -> dict[str, Any]:
    """Return the parameters of a command line, parsed and not run."""
    parsed: list[dict[str, Any]] = []
    cli.main(argv, standalone_mode=False, obj=lambda _, args: parsed.append(vars(args)))
    return parsed[0]


def _examples(program: str) -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", README, re.S)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith(f"{program} ")]
    return [shlex.split(line.split(" > ")[0], comments=True) for line in lines]


def names(cell: str) -> list[str]:
    """Return the names in backticks of a cell, {a,b} written out."""
    found: list[str] = []
    for name in re.findall(r"`([^`]+)`", cell):
        parts = [p[1:-1].split(",") if p.startswith("{") else [p] for p in re.split(r"({[^}]*})", name) if p]
        found += ["".join(p) for p in itertools.product(*parts)]
    return found


@pytest.mark.parametrize("name", list(SCHEMAS))
def test_every_column_is_described_once(name: str) -> None:
    described = [n for row in table(f"Column of `{name}`") for n in names(row[0])]
    assert sorted(described) == sorted(SCHEMAS[name].names)


def test_spaces_noises_and_merges_are_complete() -> None:
    assert [n for row in table("Space") for n in names(row[0])] == search_spaces.names()
    noises = {names(row[0])[0]: row[1:] for row in table("Noise")}
    assert {n: r[:4] for n, r in noises.items()} == {n: [s.formula, s.unit, s.source, s.kind] for n, s in NOISE.items()}
    assert {n: r[4] for n, r in noises.items()} == {
        n: "all" if len(s.families) == len(FAMILIES) else ", ".join(s.families) for n, s in NOISE.items()
    }
    merges = {names(row[0])[0]: row for row in table("Merge")}
    del merges[GREEDY]
    assert {n: r[1] for n, r in merges.items()} == {n: m.formula for n, m in MERGES.items()}
    assert {n: r[3] for n, r in merges.items()} == {n: m.source for n, m in MERGES.items()}


@pytest.mark.parametrize(
    ("head", "registry"),
    [("Model", MODELS), ("Data set", DATASETS), ("Augmentation", AUGMENTATIONS)],
    ids=["models", "data sets", "augmentations"],
)
def test_models_data_sets_and_augmentations_are_complete(head: str, registry: Registry[object]) -> None:
    assert sorted(n for row in table(head) for n in names(row[0])) == sorted(registry)


def test_every_outcome_and_warning_is_named() -> None:
    assert all(f"`{name}`" in README for name in [*(o.value for o in Outcome), *KEYS])


def test_every_flag_sampler_and_objective_is_in_the_table() -> None:
    rows = table("Flag of `run`")
    flags = {f for row in rows for f in re.findall(r"--[a-z-]+", row[0])}
    assert flags == _flags(_commands()["run"]) - {"--json"}
    text = " ".join(cell for row in rows for cell in row)
    assert set(SAMPLERS) | set(OBJECTIVES) <= set(names(text))


def test_every_resource_is_in_the_table() -> None:
    described = [n for row in table("Key of `resources`") for n in names(row[0])]
    assert sorted(described) == sorted(Resources.model_fields)


def test_every_command_and_flag_is_named() -> None:
    for name, command in _commands().items():
        assert f"`sweeper {name}" in README or f"\nsweeper {name} " in README or f"\nsweeper {name}\n" in README
        assert _flags(command) <= set(re.findall(r"--[a-z-]+", README)), name


def test_every_field_of_the_trial_is_described_once() -> None:
    described = [n for row in table("Field of the trial") for n in names(row[0])]
    assert sorted(described) == sorted(f.name for f in dataclasses.fields(PairSpec))


def test_every_command_parses() -> None:
    commands = _examples("sweeper")
    assert len(commands) > 10
    for command in commands:
        _parse(command[1:])


def test_every_setting_of_the_commands_is_a_field() -> None:
    from sweeper.config.yaml_source import assignments

    parsed = [_parse(c[1:]) for c in _examples("sweeper")]
    given = [key for params in parsed for key in assignments(params.get("set") or ())]
    assert given
    assert {key.split(".")[0] for key in given} <= {f.name for f in dataclasses.fields(PairSpec)}


def test_every_command_for_one_trial_parses() -> None:
    from trainables.pair.run import _arguments

    launched = [c for p in ("python", "torchrun") for c in _examples(p) if "trainables.pair" in c]
    assert [c[0] for c in launched] == ["python", "torchrun"]
    for command in launched:
        _arguments().parse_args(command[command.index("trainables.pair") + 1 :])


def test_the_yaml_example_is_a_sweep(tmp_path: Path) -> None:
    from sweeper.config.load import load_spec

    (block,) = re.findall(r"```yaml\n(.*?)```", README, re.S)
    path = tmp_path / "sweep.yaml"
    path.write_text(block)
    spec = load_spec(str(path))
    assert (spec.trials, spec.fixed) == (60, {"epochs": 4})


def test_the_python_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for registry in (MODELS, DATASETS):  # what the example registers is gone after the test
        monkeypatch.setattr(registry, "_items", dict(registry._items))
        monkeypatch.setattr(registry, "_owners", dict(registry._owners))
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    api, study, space, frame = blocks
    assert "space=" in api
    small = api.replace('space="digits_label_noise"', 'space="synthetic", runner="inline"')
    exec(compile(small, "README api", "exec"), {})
    exec(compile(frame.replace("runs/demo", "runs/python"), "README frame", "exec"), {})
    exec(compile(study, "README study", "exec"), {"__name__": "readme"})
    (tmp_path / "mine.py").write_text(space)
    assert main(["run", "mine.py", "--trials", "2", "--runner", "inline", "--out", "mine"]) == 0


def test_the_picture_is_there() -> None:
    (picture,) = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README)
    assert (Path(__file__).parents[2] / picture).is_file()
