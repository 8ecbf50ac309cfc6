"""What users' code and stored rows import stays importable."""

from __future__ import annotations

import pytest

from tests.support.small_trials import python

IMPORTS = (
    "from sweeper import KAug, NoiseTargetedSampler, Results, SpecError, SweepSpec, __version__, load_results, run",
    "from sweeper.client import Client",
    "from trainables.datasets import DATASETS, Data",
    "from trainables.models import MODELS",
    "from search_spaces import Space, load, names",
)


@pytest.mark.parametrize("line", IMPORTS)
def test_a_public_import_works(line: str) -> None:
    done = python("-W", "error", "-c", line)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["sweeper", "trainables.pair"])
def test_a_module_runs_as_a_command(module: str) -> None:
    done = python("-m", module, "--help")
    assert (done.returncode, done.stdout[:6].lower()) == (0, "usage:"), done.stderr
