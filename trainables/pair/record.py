"""Row of a trial from its spec, runtime and measurements."""

from __future__ import annotations

import math
import platform
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from typing import Any

from trainables.noise import KNOBS, MEASURED, predict_all
from trainables.pair.caveats import SEPARATOR, wd_relaxation
from trainables.result import Outcome, PairOutput, TrialResult
from trainables.runtime import Runtime, package_version
from trainables.spec import PairSpec
from trainables.training.optimizers import family


def now() -> str:
    """Return the current UTC time as ISO 8601."""
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
    measured_noise: Mapping[str, float] | None = None,
    warnings: Sequence[str] = (),
    **measured: Any,
) -> TrialResult:
    """Return the trial's row; fields that `measured` lacks stay empty.

    Args:
        spec: The trial.
        runtime: Runtime of the trial.
        outcome: How the trial ended.
        detail: One sentence on the outcome.
        started: Start of the trial, from `now`.
        examples: Training examples N; without it, noise scales that need it stay empty.
        steps: Optimizer steps T of one child.
        scores: Columns of `SCORES`.
        seconds: Phase -> seconds.
        measured_noise: Settings of measured noise scales without a column: `dose` and `weight_norm`.
        warnings: Caveats of the trial, see `trainables.pair.caveats`.
        measured: Further fields of `TrialResult`; `trace_sigma`, `b_simple` and `k_aug` also enter the noise scales.
    """
    version, commit = package_version()
    empty: dict[str, Any] = {"ranks": 1} | dict.fromkeys(
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
        dataset=" + ".join(name for name, _ in spec.tasks) if spec.datasets else spec.dataset,
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
        wd_relaxation=wd_relaxation(spec, steps) if steps else None,
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
        noises=_noises(spec, {"examples": examples, **measured, **(measured_noise or {})}),
        seconds=seconds or {},
        warnings=SEPARATOR.join(warnings),
        **{**empty, **measured},
    )


def _noises(spec: PairSpec, known: Mapping[str, Any]) -> dict[str, float]:
    settings: dict[str, float] = {k: getattr(spec, k) for k in KNOBS} | {"beta1": spec.betas[0]}
    if spec.augmentation == "none" or spec.augmentation_strength == 0:
        settings["k_aug"] = 1.0
    for name in ("examples", "k_aug", *MEASURED):
        value = known.get(name)
        if value is not None and math.isfinite(value):
            settings[name] = value
    return predict_all(settings, family(spec.optimizer))


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error is a failed allocation, on a GPU or in the memory of this process."""
    # by name, because this module must not load torch
    if {"OutOfMemoryError", "MemoryError"} & {kind.__name__ for kind in type(error).__mro__}:
        return True
    # on a CPU torch raises a RuntimeError
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _ALLOCATORS)


_ALLOCATORS = ("DefaultCPUAllocator", "std::bad_alloc")


def make_failed_output(spec: PairSpec, runtime: Runtime, error: BaseException, started: str) -> PairOutput:
    """Return the output of a trial that raised an error: a row that names the error.

    If the error is a failed allocation, the outcome is `out_of_memory` and its sentence names the batch size.
    """
    text = " ".join(str(error).split()) or "no message"
    if is_out_of_memory(error):
        detail = f"out of memory at batch_size {spec.batch_size} on {runtime.device}; lower it or the model: {text}"
        return PairOutput(record(spec, runtime, Outcome.OUT_OF_MEMORY, detail, started))
    return PairOutput(record(spec, runtime, Outcome.FAILED, f"{type(error).__name__}: {text}", started))


def make_pruned_output(output: PairOutput, reason: str) -> PairOutput:
    """Return the intermediate output of a trial as its final output, pruned for this reason."""
    if output.result.outcome != Outcome.PRUNED:  # a child diverged, which decides the outcome
        return output
    return replace(output, result=replace(output.result, outcome_detail=reason))


@cache  # reading the metadata of a package takes milliseconds
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
