"""What importing must not load, looked up in fresh processes."""

from __future__ import annotations

import pytest

from tests.support.small_trials import python

HEAVY = {
    "torch",
    "torchvision",
    "ray",
    "optuna",
    "pyarrow",
    "plotly",
    "pydantic",
    "sklearn",
    "scipy",
    "pandas",
    "numpy",
}
OURS = {"sweeper", "dashboards"}
LIGHT = ", ".join(f"trainables.{name}" for name in ("spec", "result", "noise", "registry", "trial", "pair.plugin"))
CLOSED_FORM = """
from trainables.runtime import Runtime
from trainables.spec import PairSpec
from trainables.trial import run_trials
spec = PairSpec("none", "none", learning_rate=.05, batch_size=32, trainable="synthetic")
assert run_trials([spec], Runtime())[0].result.outcome == "ok"
"""
TEXT = {"transformers", "peft", "tokenizers", "accelerate"}
HELP = """
from sweeper.cli.main import main
try:
    main(["--help"])
except SystemExit:
    pass
import trainables
"""
IMAGES = """
import tempfile
from pathlib import Path
from sweeper.cli.main import main
out = str(Path(tempfile.mkdtemp()) / "run")
settings = ["--trials", "1", "--sampler", "random", "--measure", "0", "--runner", "inline", "--out", out]
settings += ["--set", "epochs=1", "--set", "base.steps=5", "--set", "merges=[linear]"]
assert main(["run", "digits_cnn", *settings]) == 0
"""
CASES = {
    "help": (HELP, TEXT | {"torch", "ray"}),
    "a sweep of images": (IMAGES, TEXT),
    "seams": (f"import {LIGHT}", HEAVY | OURS),
    "trainables": ("import trainables", HEAVY | OURS),
    "synthetic": (CLOSED_FORM, HEAVY | OURS),
    "search_spaces": ("import search_spaces; search_spaces.names()", HEAVY | OURS),
    "load": (
        "import search_spaces; [search_spaces.load(n) for n in search_spaces.names()]",
        {"torch", "torchvision", "ray", "pyarrow", "plotly", "sklearn"} | OURS,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_importing_loads_nothing_else(case: str) -> None:
    code, forbidden = CASES[case]
    done = python("-W", "error", "-c", f"{code}\nimport sys; print(*{{m.partition('.')[0] for m in sys.modules}})")
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert not loaded & forbidden
    assert loaded & {"trainables", "search_spaces"}
