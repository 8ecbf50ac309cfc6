"""Process-wide settings of torch for a trial."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager

import torch

from trainables.runtime import Runtime


@contextmanager
def torch_settings(runtime: Runtime) -> Generator[None]:
    """Set threads and determinism during the block; the number of threads stays set afterwards."""
    if torch.get_num_threads() != runtime.threads:
        torch.set_num_threads(runtime.threads)
    before = torch.are_deterministic_algorithms_enabled()
    if runtime.deterministic:
        # cuBLAS reads this variable at its first use
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
