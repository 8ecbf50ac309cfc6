"""YAML text: what is read is what the core schema of YAML 1.2 says, and what is written is read back."""

import importlib.util
import sys

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.config import yaml_text
from sweeper.config.load import load_sweep
from sweeper.config.points import read_points
from sweeper.config.space import load_space
from sweeper.config.yaml_source import parse_assignments
from sweeper.config.yaml_text import Bounds, YamlError, read, with_numbers, write, write_stored
from sweeper.errors import SpecError
from sweeper.storage.run_folder import claim, stored_spec, write_start


@pytest.fixture(scope="module")
def pure():
    """The module as it is where libyaml is missing."""
    kept = yaml.CSafeLoader
    del yaml.CSafeLoader
    try:
        spec = importlib.util.spec_from_file_location("pure_yaml_text", yaml_text.__file__)
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        yaml.CSafeLoader = kept
        del sys.modules["pure_yaml_text"]


MEANINGS = {
    "010": 10, "0o10": 8, "0x1F": 31, "0b11": "0b11", "1_000": "1_000", "-0x1F": "-0x1F", "08": 8, "+7": 7, "-0": 0,
    "1e-3": 1e-3, "1e3": 1e3, "1.5E+3": 1.5e3, ".5": 0.5, "-.5": -0.5, "5.": 5.0, "1.": 1.0, "0.1.2": "0.1.2",
    "1:30": "1:30", "1:00:00.5": "1:00:00.5", "2026-01-01": "2026-01-01", "2001-99-99": "2001-99-99", "=": "=",
    "~": None, "null": None, "Null": None, "nULL": "nULL", "": None, "true": True, "False": False, "tRUE": "tRUE",
    "y": "y", "n": "n", ".inf": float("inf"), "-.Inf": float("-inf"), "inf": "inf", "nan": "nan", "<<": "<<",
    "'010'": "010", '"yes"': "yes", "!!str 5": "5", "!!float 5": 5.0, "!!float 0x10": 16.0, "e3": "e3", "1e": "1e",
    "0x": "0x", "0o8": "0o8", ".": ".", "-": [None], "1:" + "00:" * 300 + "0.5": "1:" + "00:" * 300 + "0.5",
}  # fmt: skip


@pytest.mark.parametrize(("text", "value"), MEANINGS.items())
def test_scalars_mean_what_yaml_1_2_says(text, value, pure):
    for reader in (read, pure.read):
        found = reader(f"a:\n  {text}" if text == "-" else f"a: {text}")[0]["a"]
        assert (found, type(found)) == (value, type(value))


REFUSED = {
    "a: yes": "line 1: write true or false instead of yes, or quote it",
    "a:\n- OFF": "line 2: write true or false instead of OFF",
    "a: {<<: {b: 1}}": "line 1: merge keys",
    "1: 2": "line 1: keys must be text, got 1: quote it",
    "~: 2": "line 1: keys must be text, got ~",
    "? [a]\n: 2": "line 1: keys must be text, got a list",
    "a: 1\nb: {c: 1, c: 2}": "line 2: the key b.c occurs twice; keep one",
    "a:\n- {c: 1}\n- {c: 1,\n   c: 2}": "line 4: the key a.1.c occurs twice; keep one",
    "a: !x 1": "line 1: the tag !x is not supported",
    "a: !!set {b}": "line 1: the tag !!set is not supported",
    "a: !!timestamp 2001-01-01": "line 1: the tag !!timestamp is not supported",
    "a: !!python/name:os.system": "the tag !!python/name:os.system is not supported",
    "a: !!float 1:00:00.5": "line 1: 1:00:00.5 is not a valid float",
    "a: !!int x": "line 1: x is not a valid int",
    "a: !!bool yes": "line 1: yes is not a valid bool",
    "a: 1e999": "line 1: a number must be below 1.8e308, got 1e999",
    "a: 12e4567": "quote it if it is text",
    "a: " + "9" * 5000: "line 1: a whole number must be below 2**63",
    "a: -9223372036854775808": "below 2**63",
    "a: &a [*a]": "line 1: an alias must not repeat",
    "a: &a {b: *a}": "line 1: an alias must not repeat",
    "[" * 100_000: "line 1: the text must be nested at most 50 levels",
    "{a: " * 100_000: "line 1: the text must be nested at most 50 levels",
    "- " * 100_000: "line 1: the text must be nested at most 50 levels",
    "a: *b": "not YAML: found undefined alias",
    "a: [": "not YAML",
    "a: 1\n---\nb: 2": "not YAML: but found another document",
    "a: \x07": "not YAML: it holds the character U+0007",
    "a: \ud800": "not YAML",
    "a: b: c": "line 1: not YAML",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda t: t[:30].encode("unicode_escape").decode())
def test_what_is_refused_is_named_with_its_line(text, pure):
    for module in (yaml_text, pure):
        with pytest.raises(module.YamlError) as error:
            module.read(text)
        said = f"line {error.value.line}: {error.value}" if error.value.line else str(error.value)
        assert REFUSED[text] in said
        assert error.value.syntax == ("not YAML" in said)
        assert len(said) < 200


def test_lines_of_keys_and_of_items():
    text = "a: 1\nb:\n  c.d: 2\n  e:\n  - {f: 1}\n  - f: 2\n"
    assert read(text)[1] == {"a": 1, "b": 2, "b.c.d": 3, "b.e": 4, "b.e.0": 5, "b.e.0.f": 5, "b.e.1": 6, "b.e.1.f": 6}
    assert read("") == (None, {})
    assert read("\ufeffa: 1\r\nb: 2\r\n") == ({"a": 1, "b": 2}, {"a": 1, "b": 2})


def test_aliases_are_written_out_and_counted():
    value = read("a: &x {b: [1]}\nc: *x\nd: [*x, *x]")[0]
    assert value == {"a": {"b": [1]}, "c": {"b": [1]}, "d": [{"b": [1]}, {"b": [1]}]}
    assert value["a"] is not value["c"]
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    with pytest.raises(YamlError, match="at most 1000000 values"):
        read(bomb)
    with pytest.raises(YamlError, match="at most 5 values"):
        read("[1, 2, 3, 4, 5, 6]", Bounds(values=5))
    assert read("[[1]]", Bounds(depth=2))[0] == [[1]]
    with pytest.raises(YamlError, match="at most 2 levels"):
        read("[[[]]]", Bounds(depth=2))


# fmt: off
TRICKY = [*MEANINGS, *REFUSED, "yes", "No", "on", "1e3", "0o7", "08", "a: b", "- a", "# c", " a", "a ", "a\n", "\n",
          "\ta",
          "\x00", "\x85", "\u2028", "\ufeff", "\x7f", "%YAML 1.2", "---", "...", "*a", "&a", "!x", "'", '"', "{", "]",
          ",", "?", "|", ">", "@", "`", "a\r\nb", "\U0001f600", "1 ", "1\n", "x" * 200, "a " * 100]
# fmt: on
TEXTS = st.one_of(st.sampled_from([t for t in TRICKY if "\ud800" not in t and len(t) < 2000]), st.text())
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(1 - 2**63, 2**63 - 1), st.floats(allow_nan=False), TEXTS
)  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda v: st.one_of(st.lists(v, max_size=4), st.dictionaries(TEXTS, v, max_size=4)), max_leaves=12
)


@settings(max_examples=400, deadline=None)
@given(VALUES)
def test_what_is_written_is_read_back_by_every_version(pure, value):
    for text in (write(value), write_stored(value)):
        for found in (read(text)[0], read(text, stored=True)[0], pure.read(text)[0], yaml.safe_load(text)):
            assert repr(found) == repr(value)


def test_text_of_earlier_versions_stays_text():
    values = {
        "a": "1e-3",
        "b": "08",
        "c": "0o10",
        "d": "12e4567",
        "e": "yes",
        "f": "010",
        "g": 1e17,
        "h": "-.5",
        "i": 5,
    }
    earlier = yaml.safe_dump(values)
    assert "a: 1e-3\n" in earlier  # without quotes
    assert read(earlier, stored=True)[0] == values
    assert read(write_stored(values), stored=True)[0] == values
    assert read(write_stored(values) + "z: 1e-3", stored=True)[0]["z"] == 1e-3
    assert with_numbers({"a": ["1e-3", "010", "x", 1]}) == {"a": [1e-3, "010", "x", 1]}


def test_numbers_mean_the_same_everywhere(tmp_path):
    assert parse_assignments(["a=010", "b=1:30", "c=1e-3", "d=0o10"]) == {"a": 10, "b": "1:30", "c": 1e-3, "d": 8}
    with pytest.raises(SpecError, match="--set a: write true or false instead of yes"):
        parse_assignments(["a=yes"])
    spec, points = tmp_path / "spec.yaml", tmp_path / "points.yaml"
    spec.write_text("space: digits_cnn\ntrials: 010\nparameters: {learning_rate: {min: 1e-3, max: 1e-1}}\n")
    points.write_text("- {learning_rate: 1e-2}\n")
    found = load_sweep(str(spec), {"enqueue": str(points)}).spec
    assert (found.trials, found.parameters["learning_rate"].min) == (10, 1e-3)
    assert read_points(points, load_space(found)) == [{"learning_rate": 1e-2}]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ("trials: 1:30", "line 2: trials: must be a whole number, got '1:30'"),
        ("max_seconds: 1:00:00.5", "line 2: max_seconds: must be a finite number, got '1:00:00.5'"),
        ("max_memory: 1:30", "line 2: max_memory: must be an amount of memory such as 8GB or 500MB, got '1:30'"),
        ("resources: {cpus_per_rank: 1:30}", "line 2: resources.cpus_per_rank: must be a finite number, got '1:30'"),
        ("fixed: {learning_rate: 1:30}", "line 2: learning_rate must be a number, got '1:30'"),
        ("fixed: {epochs: 1:30}", "line 2: epochs must be a number, got '1:30'"),
        ("parameters: {momentum: {min: 0, max: 1:30}}", "parameters.momentum.max: must be a finite number, got '1:30'"),
        ("parameters: {momentum: {values: [1:30]}}", "line 2: parameters.momentum: values must be numbers, got '1:30'"),
        ("enqueue: [{momentum: 1:30}]", "momentum must be one of 0.0, 0.5, 0.9, 0.95, got '1:30'"),
    ],
)
def test_text_where_a_number_is_needed_is_refused(tmp_path, lines, sentence):
    path = tmp_path / "s.yaml"
    path.write_text(f"space: digits_cnn\n{lines}\n")
    with pytest.raises(SpecError) as error:
        load_sweep(str(path))
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_of_an_earlier_version_holds_the_same_sweep(tmp_path):
    file, run = tmp_path / "s.yaml", tmp_path / "run"
    run.mkdir()
    file.write_text("space: digits_cnn\nparameters: {weight_decay: {values: [0, 1e-4]}}\n")
    (run / "sweep.yaml").write_text(
        "space: digits_cnn\nparameters:\n  weight_decay:\n    values:\n    - 0\n    - 1e-4\n"
    )
    assert stored_spec(run).parameters["weight_decay"].values == (0, "1e-4")
    same, other = (load_sweep(str(file), {"out": str(run), "seed": seed}).spec for seed in (0, 1))
    assert claim(same, load_space(same))[1]  # it is continued
    with pytest.raises(SpecError, match="holds another sweep"):
        claim(other, load_space(other))
    write_start(run, same, load_space(same))
    assert stored_spec(run).parameters["weight_decay"].values == (0, 1e-4)
