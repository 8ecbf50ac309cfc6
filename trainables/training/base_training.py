"""Training of the shared base weights theta_0, on one task or jointly on several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, count, islice

import torch
from torch import Generator, Tensor, nn

from trainables.datasets.dataset import Data
from trainables.models.seeding import seed_generators
from trainables.models.tensors import non_finite_entries, non_finite_names
from trainables.spec import PairSpec, stream
from trainables.tasks.batches import epoch_batches, steps_per_epoch
from trainables.tasks.tasks import task_name
from trainables.training.members import make_members
from trainables.training.optimizers import build


def train_base(spec: PairSpec, models: Sequence[nn.Module], data: Sequence[Data]) -> list[dict[str, Tensor]]:
    """Train the base weights theta_0 from the models' weights: constant learning rate, no augmentation.

    Several tasks train jointly, with one batch per task in every step, on the parameters that their models share.

    Args:
        spec: Its `base` holds the hyperparameters; only fields that `base_digest` covers matter.
        models: One module per task, with its start weights; trained in place.
        data: One data set per task.

    Returns:
        One state dict per task on the host, after `spec.base.steps` steps.

    Raises:
        ValueError: The base diverged, or its batch is larger than the training set.
    """
    recipe = _base_recipe(spec)
    for task_data in data:
        steps_per_epoch(task_data.examples, recipe.batch_size, "base batch_size")
    constants = [non_finite_entries(m.state_dict()) for m in models]
    members = [make_members(recipe, m, m.state_dict(), 1, distributed=False) for m in models]
    shared = {id(p): p for m in members for p in m.parameters}  # update a shared parameter once
    optimizer = build(list(shared.values()), recipe)
    device = data[0].y["train"].device
    names = ["order", *(f"order/{task_name(i)}" for i in range(1, len(data)))]
    orders = [Generator().manual_seed(stream(spec.base_digest, name)) for name in names]
    unused = Generator(device=device).manual_seed(0)
    endless = [
        chain.from_iterable(epoch_batches(d, recipe, order, unused) for _ in count())
        for d, order in zip(data, orders, strict=True)
    ]
    with seed_generators(stream(spec.base_digest, "dropout"), device):
        for batches in islice(zip(*endless, strict=True), spec.base.steps):
            optimizer.zero_grad(set_to_none=True)
            losses = [m.losses(x[None], y[None]).sum() for m, (x, y) in zip(members, batches, strict=True)]
            torch.stack(losses).sum().backward()  # pyright: ignore[reportUnknownMemberType]
            optimizer.step()
    optimizer.zero_grad(set_to_none=True)  # no gradients beside the models that are scored
    weights = [m.weights()[0] for m in members]
    if any(non_finite_names(w, c) for w, c in zip(weights, constants, strict=True)):
        rate, steps = spec.base.learning_rate, spec.base.steps
        raise ValueError(f"the base diverged with learning_rate {rate} in {steps} steps; lower it")
    return weights


def _base_recipe(spec: PairSpec) -> PairSpec:
    base = spec.base
    return replace(
        spec,
        learning_rate=base.learning_rate,
        batch_size=base.batch_size,
        momentum=base.momentum if base.optimizer == "sgd" else 0.0,
        weight_decay=base.weight_decay,
        optimizer=base.optimizer,
        beta1=0.9,
        beta2=0.999,
        betas_batch_size=0,
        optimizer_options={},
        clip_norm=0.0,
        compile=False,
        augmentation="none",
        augmentation_strength=0.0,
    )
