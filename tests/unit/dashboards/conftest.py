from pathlib import Path

import pyarrow as pa
import pytest

from sweeper.storage.tables import read_trials
from tests.support.fake_sweep import write_sweep


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run: 60 of 60 configurations, a hump at 1e-2."""
    return write_sweep(tmp_path_factory.mktemp("sweep") / "run")


@pytest.fixture(scope="session")
def trials(run: Path) -> pa.Table:
    return read_trials(run)
