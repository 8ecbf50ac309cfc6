"""Process-wide settings of torch for a trial."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor

from trainables.runtime import Runtime

_FEW, _SMALL = 16, 2048
"""Batches below this size, whose images have at most this many positions in all, are small for convolutions."""


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


@contextmanager
def small_convolutions(x: Tensor) -> Generator[None]:
    """Use torch's own convolutions during the block, forward and backward, if a batch is small; else change nothing.

    oneDNN takes 130 us for a call and 210 us for its gradient, whatever it computes. torch's own kernels take less for
    small images in small batches. The choice depends on the shape alone, so that a trial computes the same everywhere.

    Args:
        x: Inputs of one batch [B, ...].
    """
    small = x.device.type == "cpu" and x.dim() == 4 and len(x) < _FEW and len(x) * x[0, 0].numel() <= _SMALL
    before = torch.backends.mkldnn.enabled
    if small:
        torch.backends.mkldnn.enabled = False
    try:
        yield
    finally:
        if small:
            torch.backends.mkldnn.enabled = before
