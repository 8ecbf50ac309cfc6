from __future__ import annotations

import pickle
import sys

import pytest

from trainables.models import MODELS
from trainables.plugin import PluginError, load_source

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
