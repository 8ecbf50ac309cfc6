"""Tests that start processes: a local Ray of their own each, and drivers that are stopped or killed."""

from collections.abc import Callable
from pathlib import Path

import pytest

SPEC = """\
space: digits_cnn
sampler: {sampler}
runner: {runner}
workers: {workers}
trials: {trials}
seed: 5
fixed: {{epochs: 1}}
parameters: {{batch_size: {{values: [16, 32]}}}}
"""


@pytest.fixture
def write_spec(tmp_path: Path) -> Callable[..., str]:
    """Write a small sweep of real pairs and return its path."""

    def write(sampler: str = "random", runner: str = "ray", workers: int = 2, trials: int = 6) -> str:
        path = tmp_path / f"{sampler}-{runner}-{trials}.yaml"
        path.write_text(SPEC.format(sampler=sampler, runner=runner, workers=workers, trials=trials))
        return str(path)

    return write
