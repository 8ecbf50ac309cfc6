"""The notebooks run from the first cell to the last, and are stored without outputs."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.docs.pages import DOCS, ROOT

NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
SHOWS = {
    "first_sweep": ("inside the tried range", "Hump: validation loss gain"),
    "sampler_in_optuna": ("batch_size", "posterior"),
    "reading_parquet": ("merged_loss_test", "loss of the mean of the parents minus merged, test in nat"),
}
"""What each notebook must print."""


@pytest.mark.ray  # a kernel is another process
@pytest.mark.filterwarnings("default")  # of the kernel's libraries
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    book = nbformat.read(path, 4)
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
    NotebookClient(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = "".join(str(cell.outputs) for cell in cells)
    assert all(text in shown for text in SHOWS[path.stem]), shown[:3000]


def test_every_notebook_is_checked() -> None:
    assert {path.stem for path in NOTEBOOKS} == set(SHOWS)
