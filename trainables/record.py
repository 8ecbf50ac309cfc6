"""The row of a trial from its spec, its runtime and what was measured."""

from __future__ import annotations

import platform
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from .noise import predict_all
from .result import Outcome, PairOutput, TrialResult
from .runtime import Runtime, package_version
from .spec import PairSpec


def now() -> str:
    """Return the present in UTC as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def record(
    spec: PairSpec,
    runtime: Runtime,
    outcome: Outcome,
    detail: str,
    started: str,
    *,
    examples: int | None = None,
    steps: int | None = None,
    scores: Mapping[str, float | None] | None = None,
    seconds: Mapping[str, float] | None = None,
    **measured: Any,
) -> TrialResult:
    """Return the trial's row; what is left out of `measured` stays empty.

    Args:
        spec: The trial.
        runtime: Where it ran.
        outcome: How it ended.
        detail: One sentence on that.
        started: Its start, from `now`.
        examples: Training examples N; noise scales that need it are empty without.
        steps: Optimizer steps T of one child.
        scores: Columns of `SCORES`.
        seconds: Phase -> seconds.
        measured: Further fields of `TrialResult`.
    """
    settings: dict[str, float] = {
        k: getattr(spec, k) for k in ("learning_rate", "batch_size", "momentum", "weight_decay")
    }
    version, commit = package_version()
    empty: dict[str, Any] = dict.fromkeys(
        ("parameters", "classes", "distance", "task_cosine", "norm_a", "norm_b", "chosen_merge", "chosen_coefficient")
    )
    return TrialResult(
        digest=spec.digest,
        config=spec.config,
        repeat=spec.repeat,
        seed=spec.seed,
        outcome=outcome.value,
        outcome_detail=detail,
        trainable=spec.trainable,
        protocol=spec.protocol,
        pair_kind=spec.pair_kind,
        dataset=spec.dataset,
        model=spec.model,
        optimizer=spec.optimizer,
        learning_rate=spec.learning_rate,
        batch_size=spec.batch_size,
        momentum=spec.momentum,
        weight_decay=spec.weight_decay,
        augmentation=spec.augmentation,
        augmentation_strength=spec.augmentation_strength,
        epochs=spec.epochs,
        members=spec.members,
        dataset_b=spec.dataset_b,
        branch_step=spec.branch_step,
        precision=spec.dtype + (f"+{spec.autocast}" if spec.autocast else ""),
        steps=steps,
        examples=examples,
        wd_relaxation=steps and spec.learning_rate * spec.weight_decay * steps / (1 - spec.momentum),
        device=runtime.device,
        host=socket.gethostname(),
        threads=runtime.threads,
        stack=spec.stack,
        device_seconds=sum((seconds or {}).values()),
        started=started,
        version=version,
        commit=commit,
        torch=_version("torch"),
        python=platform.python_version(),
        spec=spec.to_json(),
        scores=scores or {},
        noises=predict_all({**settings, "examples": examples} if examples else settings),
        seconds=seconds or {},
        **{"ranks": 1, "warnings": "", **empty, **measured},
    )


def failed(spec: PairSpec, runtime: Runtime, error: BaseException, started: str) -> PairOutput:
    """Return the output of a trial that raised: a row that names the error, and nothing else."""
    text = " ".join(str(error).split()) or "no message"
    return PairOutput(record(spec, runtime, Outcome.FAILED, f"{type(error).__name__}: {text}", started))


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
