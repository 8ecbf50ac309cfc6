"""run_pair(spec) -> PairOutput: base, two children, merges, scores. One trial, anywhere torch is.

Command line: ``python -m trainables.pair spec.json [--data ROOT] [--device cpu]`` prints the trial's row as JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Generator as Yields
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from torch import Generator, Tensor, nn

from .augmentation import AUGMENTATIONS
from .base import base_weights, new_model
from .batches import epoch_batches, steps_per_epoch
from .curves import score_merges
from .datasets import Data, forget, load
from .evaluation import Score, finite, logits_of
from .merging import MERGES
from .models import has_batchnorm
from .noise import NOISE
from .record import now, record
from .result import HistoryRow, Outcome, PairOutput
from .runtime import Report, Runtime
from .schedule import SCHEDULES
from .spec import PairSpec
from .training import OPTIMIZERS, Child, Epoch, Seeds, finetune
from .trial import run_trials

# batches of the BatchNorm re-estimation: the cumulative average settles long before an epoch of a large set ends
RECALIBRATION_BATCHES = 64
MEMBERS = ("a", "b")


@dataclass
class Clock:
    """Seconds by phase."""

    seconds: dict[str, float] = field(default_factory=lambda: {})

    @contextmanager
    def phase(self, name: str, device: str) -> Yields[None]:
        """Add the time of the block to a phase; waits for the device first and last."""
        _wait(device)
        start = time.perf_counter()
        try:
            yield
        finally:
            _wait(device)
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


@dataclass
class Lab:
    """What the trials of one stack share: data, module, base weights."""

    spec: PairSpec
    runtime: Runtime
    data: Data
    model: nn.Module
    base: dict[str, Tensor]
    clock: Clock
    started: str

    @property
    def steps(self) -> int:
        """Optimizer steps T of one child."""
        return steps_per_epoch(self.data.examples, self.spec.batch_size) * self.spec.epochs


def run_pair(spec: PairSpec, runtime: Runtime, report: Report = lambda _: None) -> PairOutput:
    """Train, merge and score one pair.

    Args:
        spec: The trial. Where `spec.stack` > 1 its stack mates are trained along, so that the numbers stay the same.
        runtime: Where to run.
        report: Called after each epoch with a mapping (repeat, member, epoch, epochs, val_loss).

    Returns:
        Row, merge curves, history and the chosen merge's weights; without weights where the outcome is not `ok`.
        Divergence is an outcome, not an exception.

    Raises:
        ValueError: The spec cannot be run (unknown names, missing data, a batch larger than the data).
    """
    return run_pairs([spec], runtime, report)[0]


def run_pairs(specs: Sequence[PairSpec], runtime: Runtime, report: Report = lambda _: None) -> list[PairOutput]:
    """Run several trials, stack mates together; see `run_pair`. Yields one output per spec, in their order."""
    outputs: dict[str, PairOutput] = {}
    for spec in specs:
        if spec.digest not in outputs:
            outputs |= {o.result.digest: o for o in _run_stack(spec.stack_mates(), runtime, report)}
    return [outputs[spec.digest] for spec in specs]


def inspect(specs: Sequence[PairSpec], runtime: Runtime) -> int:
    """Check that trials can be run, without training, and return the first one's number of training examples, N.

    Raises:
        UnknownName: A name that nothing is registered under.
        ValueError: Missing data, wrong options, a device that is not there, a batch larger than the training set.
    """
    _check_device(runtime.device)
    labs: dict[str, Lab] = {}
    for spec in specs:
        if spec.base_digest not in labs:
            here = replace(runtime, device="cpu", bases=None)
            labs[spec.base_digest] = _prepare(spec, here, with_base=False)
            _check_model(labs[spec.base_digest])
        for registry, names in (
            (AUGMENTATIONS, spec.augmentation.split("+")),
            (OPTIMIZERS, [spec.optimizer]),
            (SCHEDULES, [spec.schedule]),
            (MERGES, spec.merges),
        ):
            for name in names:
                registry[name]
        examples = labs[spec.base_digest].data.examples
        steps_per_epoch(examples, spec.batch_size)
        steps_per_epoch(examples, spec.base.batch_size, "base batch_size")
    forget()
    return labs[specs[0].base_digest].data.examples


def _check_model(lab: Lab) -> None:
    few = lab.data.x["val"][:2]
    shape = tuple(logits_of(lab.model, lab.model.state_dict(), few).shape)
    if shape != (len(few), lab.data.classes):
        raise ValueError(
            f"model {lab.spec.model!r} must map images to {lab.data.classes} logits each, got shape {shape}"
        )


def _check_device(name: str) -> None:
    if name == "auto":
        return
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device must be auto, cpu, cuda or another of torch's, got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} is not available here; use cpu or auto")


def resolve_device(runtime: Runtime) -> Runtime:
    """Return the runtime with `auto` replaced by the first GPU where there is one, else the CPU."""
    if runtime.device != "auto":
        return runtime
    return replace(runtime, device="cuda" if torch.cuda.is_available() else "cpu")


def _run_stack(specs: Sequence[PairSpec], runtime: Runtime, report: Report) -> list[PairOutput]:
    runtime = resolve_device(runtime)
    if torch.get_num_threads() != runtime.threads:
        torch.set_num_threads(runtime.threads)
    lab = _prepare(specs[0], runtime)
    seeds = [Seeds(s.stream(f"{m}/order"), s.stream(f"{m}/augment")) for s in specs for m in MEMBERS]

    def on_epoch(child: int, epoch: Epoch) -> None:
        spec = specs[child // 2]
        report({"repeat": spec.repeat, "member": MEMBERS[child % 2], "epoch": epoch.epoch, "epochs": spec.epochs,
                "val_loss": epoch.val.loss})  # fmt: skip

    with lab.clock.phase("train", runtime.device):
        children = finetune(specs[0], lab.model, lab.base, lab.data, seeds, on_epoch)
    # shared phases are split evenly, so that the rows of a stack add up to what it took
    shared = {k: v / len(specs) for k, v in lab.clock.seconds.items()}
    outputs: list[PairOutput] = []
    for i, spec in enumerate(specs):
        lab.spec, lab.clock = spec, Clock(dict(shared))
        outputs.append(_finish(lab, children[2 * i], children[2 * i + 1]))
    return outputs


def _prepare(spec: PairSpec, runtime: Runtime, with_base: bool = True) -> Lab:
    if spec.source:
        from .plugin import load_source

        load_source(spec.source)
    clock, started, dtype = Clock(), now(), getattr(torch, spec.dtype)
    with clock.phase("data", runtime.device):
        data = load(spec.dataset, spec.dataset_options, runtime, dtype)
    with clock.phase("base", runtime.device):
        model = new_model(spec, data, runtime.device, dtype)
        base = base_weights(spec, model, data, runtime) if with_base else {}
    return Lab(spec, runtime, data, model, base, clock, started)


def _finish(lab: Lab, a: Child, b: Child) -> PairOutput:
    history = tuple(_history(lab.spec, lab.steps, m, c) for m, c in zip(MEMBERS, (a, b), strict=True))
    rows = tuple(row for child in history for row in child)
    about: dict[str, Any] = {
        "examples": lab.data.examples,
        "steps": lab.steps,
        "classes": lab.data.classes,
        "parameters": sum(p.numel() for p in lab.model.parameters() if p.requires_grad),
    }
    lost = [(m, c.diverged_at) for m, c in zip(MEMBERS, (a, b), strict=True) if c.diverged_at is not None]
    if lost:
        detail = f"child {lost[0][0].upper()} diverged by step {lost[0][1]} of {lab.steps}"
        result = record(
            lab.spec, lab.runtime, Outcome.DIVERGED, detail, lab.started, seconds=lab.clock.seconds, **about
        )
        return PairOutput(result, history=rows)
    with lab.clock.phase("recalibrate", lab.runtime.device):
        batches = _recalibration_batches(lab) if has_batchnorm(lab.model) else []
    curves = score_merges(
        lab.spec, lab.model, lab.data, (lab.base, a.weights, b.weights), batches,
        lambda name: lab.clock.phase(name, lab.runtime.device),
    )  # fmt: skip
    outcome, detail = _viability(lab.spec, curves.parents)
    result = record(
        lab.spec,
        lab.runtime,
        outcome,
        detail,
        lab.started,
        scores=finite(curves.columns()),
        seconds=lab.clock.seconds,
        **about,
        **finite(geometry(lab.base, a.weights, b.weights, [n for n, _ in lab.model.named_parameters()])),
        chosen_merge=curves.chosen[0],
        chosen_coefficient=curves.chosen[1],
    )
    # a pair that cannot win leaves no weights behind
    weights = {k: v.cpu() for k, v in curves.weights.items()} if outcome is Outcome.OK else None
    return PairOutput(result, tuple(curves.rows(lab.spec)), rows, weights)


def _recalibration_batches(lab: Lab) -> list[Tensor]:
    order = Generator().manual_seed(lab.spec.stream("recalibrate/order"))
    augment = Generator(device=lab.runtime.device).manual_seed(lab.spec.stream("recalibrate/augment"))
    batches = epoch_batches(lab.data, lab.spec, order, augment)
    return [x for x, _ in islice(batches, RECALIBRATION_BATCHES)]


def _viability(spec: PairSpec, parents: Sequence[Mapping[str, Score]]) -> tuple[Outcome, str]:
    worst = min(p["val"].accuracy for p in parents)
    if not all(math.isfinite(p["val"].loss) for p in parents):
        return Outcome.NOT_VIABLE, "a parent's validation loss is not finite"
    if worst < spec.accuracy_floor:
        return (
            Outcome.NOT_VIABLE,
            f"a parent's validation accuracy {worst:.3f} is below the floor {spec.accuracy_floor}",
        )
    return Outcome.OK, "both children trained and merged"


def geometry(
    base: Mapping[str, Tensor], a: Mapping[str, Tensor], b: Mapping[str, Tensor], names: Iterable[str]
) -> dict[str, float]:
    """Return |theta_A - theta_B|, cos(tau_A, tau_B), |theta_A| and |theta_B| over the parameters `names`."""
    names = list(names)
    flat = [torch.cat([w[n].double().flatten() for n in names]) for w in (base, a, b)]
    ta, tb = flat[1] - flat[0], flat[2] - flat[0]
    norms = _norm(ta) * _norm(tb)
    return {
        "distance": _norm(flat[1] - flat[2]),
        "task_cosine": float(ta @ tb) / norms if norms else math.nan,
        "norm_a": _norm(flat[1]),
        "norm_b": _norm(flat[2]),
    }


def _norm(vector: Tensor) -> float:
    norm = cast(Tensor, torch.linalg.vector_norm(vector))  # pyright: ignore[reportUnknownMemberType]
    return float(norm)


def _history(spec: PairSpec, steps: int, member: str, child: Child) -> list[HistoryRow]:
    # the rate of the last step of each epoch, not of the stable phase: decay anneals the noise to 0
    scale = NOISE["paper"].predict({"learning_rate": 1.0, "batch_size": spec.batch_size, "momentum": spec.momentum})
    return [
        HistoryRow(
            digest=spec.digest,
            member=member,
            epoch=e.epoch,
            step=e.step,
            learning_rate=e.learning_rate,
            noise_paper=scale * e.learning_rate,
            **finite({"train_loss": e.train_loss, "val_loss": e.val.loss, "val_accuracy": e.val.accuracy}),
        )
        for e in child.history
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the trial of a JSON spec and print its row as JSON; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m trainables.pair", description="Run one trial from a JSON spec.")
    parser.add_argument("spec", type=Path, help="file with a pair spec, as in the column `spec`")
    parser.add_argument("--data", help="folder with the data sets")
    parser.add_argument("--device", default="cpu", help="torch device (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    args = parser.parse_args(argv)
    try:
        spec = PairSpec.from_json(args.spec.read_text())
        runtime = Runtime(data_root=args.data, device=args.device, threads=args.threads)
        output = run_trials([spec], runtime)[0]
    except (ValueError, KeyError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(output.result.to_row(), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
