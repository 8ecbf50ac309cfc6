from __future__ import annotations

import pickle
import sys

import pytest

from trainables.models.registry import MODELS
from trainables.pair.plugin import PluginError, load_source

pytestmark = pytest.mark.usefixtures("own_registries")
GOOD = """
from dataclasses import dataclass
from trainables.models import MODELS

@dataclass
class Shape:
    width: int = 3

@MODELS.register("of_the_test")
def build(classes, channels, **options):
    return Shape()
"""


def test_a_source_registers_once_per_process() -> None:
    module = load_source(GOOD, "mine.py")
    assert MODELS["of_the_test"] is module.build
    assert load_source(GOOD, "elsewhere.py") is module  # a second registration would raise
    assert module.__file__ == "mine.py"
    assert sys.modules[module.__name__] is module


def test_what_it_defines_can_be_pickled() -> None:
    shape = load_source(GOOD).Shape(5)
    assert pickle.loads(pickle.dumps(shape)) == shape


def test_an_edited_file_replaces_its_names_and_the_old_text_gets_them_back() -> None:
    old = load_source(GOOD, "mine.py")
    new = load_source(GOOD + "# edited\n", "mine.py")
    assert MODELS["of_the_test"] is new.build is not old.build
    assert load_source(GOOD, "mine.py") is old  # a trial of the old text
    assert MODELS["of_the_test"] is old.build
    with pytest.raises(ValueError, match="'of_the_test' is registered already"):
        MODELS.add("of_the_test", new.build)  # outside a user's file a name stays bound


def test_a_file_that_fails_leaves_no_names_behind() -> None:
    for _ in range(2):
        with pytest.raises(PluginError, match="line 12: ZeroDivisionError"):
            load_source(GOOD + "1 / 0\n", "mine.py")
        assert "of_the_test" not in MODELS
    with pytest.raises(PluginError, match="line 12: ValueError: model 'of_the_test' is registered already"):
        load_source(GOOD + "MODELS.add('of_the_test', 3)\n", "mine.py")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ny = (\n", r"^mine\.py, line 2: SyntaxError: '\(' was never closed"),
        ("x = 1\n\ny = x / 0\n", r"^mine\.py, line 3: ZeroDivisionError: division by zero$"),
        ("def f():\n    raise KeyError('k')\n\nf()\n", r"^mine\.py, line 2: KeyError: 'k'$"),
        ("import not_there_at_all\n", r"^mine\.py, line 1: ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("import json\njson.loads('{')\n", r"^mine\.py, line 2: JSONDecodeError: "),
        (
            "from trainables.models import MODELS\nMODELS.add('small_cnn', 3)\n",
            r"^mine\.py, line 2: ValueError: model 'small_cnn' is registered already; choose another name",
        ),
    ],
    ids=["syntax", "raises", "inside", "import", "library", "duplicate"],
)
def test_errors_name_file_line_and_reason(text: str, message: str) -> None:
    before = set(sys.modules)
    for _ in range(2):  # a source that failed is not taken for loaded
        with pytest.raises(PluginError, match=message):
            load_source(text, "mine.py")
    assert not [m for m in set(sys.modules) - before if m.startswith("sweeper_source_")]
