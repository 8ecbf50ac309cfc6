"""Base weights theta_0: trained once per base digest and shared by trials, in memory and as a file."""

from __future__ import annotations

import fcntl
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from .datasets import Data
from .models import MODELS
from .runtime import Runtime
from .spec import PairSpec, stream
from .training import build_model, train_base

_MEMORY: dict[tuple[str, str, int, str | None], dict[str, Tensor]] = {}
_KEEP = 4


def new_model(spec: PairSpec, data: Data, device: str, dtype: torch.dtype) -> nn.Module:
    """Build the trial's module with its initial weights, which depend on the base digest alone.

    Raises:
        UnknownName: No such model.
        ValueError: The builder does not take the spec's `model_options`.
    """
    builder, channels = MODELS[spec.model], data.x["train"].shape[1]

    def build() -> nn.Module:
        try:
            return builder(data.classes, channels, **spec.model_options)
        except TypeError as error:
            raise ValueError(f"model {spec.model!r} does not take these model_options: {error}") from None

    return build_model(build, stream(spec.base_digest, "init"), device, dtype)


def base_weights(spec: PairSpec, model: nn.Module, data: Data, runtime: Runtime) -> dict[str, Tensor]:
    """Return theta_0 as a state dict; trains it only where neither memory nor `runtime.bases` holds it.

    Args:
        spec: The trial.
        model: Module with its initial weights from `new_model`; may be overwritten.
        data: Data set.
        runtime: Its `bases` folder is shared by the workers of a run; a lock lets one of them train.

    Raises:
        ValueError: The base diverged.
    """
    key = (spec.base_digest, runtime.device, runtime.threads, runtime.bases)
    if key not in _MEMORY:
        while len(_MEMORY) >= _KEEP:
            del _MEMORY[next(iter(_MEMORY))]
        _MEMORY[key] = _shared(spec, model, data, runtime)
    return _MEMORY[key]


def _shared(spec: PairSpec, model: nn.Module, data: Data, runtime: Runtime) -> dict[str, Tensor]:
    if runtime.bases is None:
        return train_base(spec, model, data)
    # imported here: a trial that shares no files needs torch alone
    from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType]

    path = Path(runtime.bases) / f"{spec.base_digest}.safetensors"
    with _locked(path):
        if not path.exists():
            weights = train_base(spec, model, data)
            temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
            save_file({k: v.cpu().contiguous() for k, v in weights.items()}, temporary)
            temporary.replace(path)
    return load_file(path, device=runtime.device)


@contextmanager
def _locked(path: Path) -> Generator[None]:
    # the kernel frees the lock when its holder dies, so a crash leaves nothing to clean up
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
