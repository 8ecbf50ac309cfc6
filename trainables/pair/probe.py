"""Augmentation probe at the base weights for trials and searches, measured once per base and policy."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from trainables.measurement.augmentation_probe import STRENGTHS, Probe, cached_probe, probe
from trainables.merging.coefficient_grid import Phase
from trainables.models.tensors import mount
from trainables.pair.setup import prepare, resolve_device
from trainables.runtime import Runtime
from trainables.spec import PairSpec, digest_of, stream
from trainables.tasks.tasks import Task, trained_names
from trainables.training.base import base_weights
from trainables.training.torch_settings import torch_settings


def base_probe(spec: PairSpec, task: Task, runtime: Runtime, phase: Phase = lambda name: nullcontext()) -> Probe:
    """Return the gradient noise at the base weights under the spec's augmentation policy, by strength.

    The function measures it only if neither memory nor `runtime.bases` holds it. A trial of protocol `scratch` has no
    `task.base`; then it trains one, in the phase `base`.
    """

    def make() -> Probe:
        names, seed = trained_names(task.trainee), stream(spec.base_digest, "probe")
        base = task.base
        if not base:
            with phase("base"):
                (base,) = base_weights(spec, [task], runtime)
        weights = mount(task.trainee, task.start(base), task.device)
        return probe(task.trainee, weights, names, task.data, spec.augmentation, seed)

    def key(digest: str) -> str:
        # adapters of one base have gradients of their own
        return task.cache_key(digest_of({"probe": digest, "adapter": spec.adapter}) if spec.adapter else digest)

    return cached_probe(spec, runtime.bases, make, key)


def probe_columns(
    spec: PairSpec, task: Task, runtime: Runtime, phase: Phase = lambda name: nullcontext()
) -> dict[str, Any]:
    """Return `trace_sigma_base`, `k_aug` and `augmentation_share` at the spec's policy and strength."""
    measured, strength = base_probe(spec, task, runtime, phase), spec.augmentation_strength
    return {
        "trace_sigma_base": measured.trace_at(strength),
        "k_aug": measured.at(strength),
        "augmentation_share": measured.share_at(strength),
    }


def probe_tables(specs: Sequence[PairSpec], runtime: Runtime) -> dict[str, dict[float, float]]:
    """Return policy -> strength -> k_aug for the policies of `specs`, which share one base.

    Raises:
        UnknownName, ValueError: The trials cannot be set up, or the base diverged.
    """
    runtime = resolve_device(runtime)
    tables: dict[str, dict[float, float]] = {}
    with torch_settings(runtime):  # the base may be trained here, and its trials must find the same one
        for spec in specs:
            if spec.augmentation not in tables:
                lab = prepare(spec, runtime)
                measured = base_probe(spec, lab.tasks[0], runtime)
                tables[spec.augmentation] = {s: measured.at(s) for s in STRENGTHS}
    return tables
