"""Runs trials: start weights, children, merges, scores. `run_pair` needs only torch.

Command line: ``python -m trainables.pair spec.json [--data ROOT] [--device cpu]`` prints the trial's row as JSON;
``torchrun --nproc-per-node K -m trainables.pair spec.json`` trains each child by K processes.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from trainables.datasets.cache import drop_checkpoints
from trainables.io.printable import guard_output
from trainables.measurement.curvature import geometry, pair_plane, relief_columns
from trainables.measurement.monitor import Watch
from trainables.merging.coefficient_grid import score_merges
from trainables.merging.merge_curves import MergeCurves
from trainables.models.registry import has_batchnorm
from trainables.noise import NOISE
from trainables.pair.caveats import caveats
from trainables.pair.checkpoints import merge_checkpoints
from trainables.pair.children import Children, child_names
from trainables.pair.dynamics import describe_dynamics
from trainables.pair.probe import probe_columns, probe_tables
from trainables.pair.processes import Peer, distribute
from trainables.pair.record import is_out_of_memory, make_failed_output, make_pruned_output, now, record
from trainables.pair.rungs import Rungs
from trainables.pair.setup import Clock, build_model, inspect, prepare, resolve_device
from trainables.result import HistoryRow, Outcome, PairOutput, PlaneRow, RungRow
from trainables.runtime import Report, Runtime, Stop
from trainables.spec import PairSpec
from trainables.tasks.evaluation import finite
from trainables.tasks.tasks import Weights, trained_names
from trainables.training import optimizers
from trainables.training.checkpointing import Keeper, make_keeper
from trainables.training.child import Child
from trainables.training.legs import child_leg
from trainables.training.ranks import join_launched_group, ranks
from trainables.training.torch_settings import torch_settings
from trainables.trial import run_trials

__all__ = ["build_model", "inspect", "main", "merge_checkpoints", "probe_tables", "run_pair", "run_pairs"]


def run_pair(
    spec: PairSpec, runtime: Runtime, report: Report = lambda _: None, peers: Sequence[Sequence[Peer]] = ()
) -> PairOutput:
    """Train, merge and score one trial.

    Args:
        spec: The trial. With `spec.stack` > 1 its stack mates train too, so that the numbers stay the same.
        runtime: Where to run.
        report: Called after each epoch with a mapping (repeat, member, epoch, epochs, val_loss), and by each stack at
            `runtime.rungs` rungs with (repeat, rung, step, steps, epoch, merged_loss_val, merged_accuracy_val,
            device_seconds, outputs). The values are means over its trials, None if one is not finite; the outputs are
            those of trials that end at the rung. If the callback raises `Stop`, they end with outcome `pruned`.
        peers: Further processes of each child; see `trainables.pair.processes`.

    Returns:
        Row, merge curves, history and, if the outcome is `ok`, the chosen merge's weights. Divergence and missing
        memory are outcomes, not exceptions.

    Raises:
        ValueError: The spec cannot run: unknown names, missing data, or a batch larger than the training set.
    """
    return run_pairs([spec], runtime, report, peers)[0]


def run_pairs(
    specs: Sequence[PairSpec],
    runtime: Runtime,
    report: Report = lambda _: None,
    peers: Sequence[Sequence[Peer]] = (),
) -> list[PairOutput]:
    """Run several trials, stack mates together, and return one output per spec in order; see `run_pair`."""
    outputs: dict[str, PairOutput] = {}
    runtime = resolve_device(runtime)
    with torch_settings(runtime):
        for spec in specs:
            if spec.digest not in outputs:
                outputs |= {o.result.digest: o for o in _run_stack(spec.stack_mates(), runtime, report, peers)}
    return [outputs[spec.digest] for spec in specs]


def _run_stack(
    specs: Sequence[PairSpec], runtime: Runtime, report: Report, peers: Sequence[Sequence[Peer]]
) -> list[PairOutput]:
    started = now()
    try:
        return _run(specs, runtime, report, peers)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        outputs = [make_failed_output(spec, runtime, error, started) for spec in specs]
    # outside the handler, whose traceback holds the tensors
    gc.collect()
    torch.cuda.empty_cache()
    return outputs


def _run(
    specs: Sequence[PairSpec], runtime: Runtime, report: Report, peers: Sequence[Sequence[Peer]]
) -> list[PairOutput]:
    if runtime.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(runtime.device)
    lab = prepare(specs[0], runtime)
    legs = [child_leg(s, data.examples) for s, data in zip(specs[0].child_specs(), lab.data, strict=True)]
    if runtime.measure != 0:
        # before a trunk replaces the base
        with lab.clock.phase("measure"):
            lab.probed = probe_columns(specs[0], lab.tasks[0], runtime, lab.clock.phase)
    watch = Watch(
        [child for s in specs for child in s.child_specs()], lab.children * len(specs), lab.data * len(specs),
        legs * len(specs), runtime.measure, lab.clock.phase,
    )  # fmt: skip
    rungs = Rungs(specs, lab, runtime.rungs)
    children = Children(specs, lab, watch, rungs, report)

    def at_rung(rung: int) -> None:
        with lab.clock.phase("rungs"):
            rungs.take(rung, children.courses)
            report(rungs.summary() | {"outputs": [t.pruned_output() for t in _list_trials(children)]})

    try:
        with lab.clock.phase("train"):
            children.open()
            if peers and children.lost is None:
                children.courses, children.together = distribute(children, peers), True
            children.keeper = _make_keeper(specs, runtime, report, peers)
            if state := children.keeper.read():
                children.restore(state)
            children.train(at_rung)
    except Stop as stop:
        return [make_pruned_output(t.pruned_output(), str(stop)) for t in _list_trials(children)]
    if not ranks().leads:
        return [PairOutput(record(s, runtime, Outcome.OK, "trained along", lab.started)) for s in specs]
    return [trial.output() for trial in _list_trials(children)]


def _make_keeper(
    specs: Sequence[PairSpec], runtime: Runtime, report: Report, peers: Sequence[Sequence[Peer]]
) -> Keeper:
    if ranks().size > 1 and not peers:  # of torchrun: no process gathers the state of the ranks
        runtime = replace(runtime, checkpoints=None)
    return make_keeper(specs, runtime, report, f"{len(peers)}x{ranks().size}" if peers else "")


def _list_trials(children: Children) -> list[_Trial]:
    lab, specs = children.lab, children.specs
    # trials share the phases evenly, so that the rows of a stack add up to its time
    lab.clock.total()
    shared = {k: v / len(specs) for k, v in lab.clock.seconds.items()}
    current, members = children.current_children(), specs[0].members
    trials: list[_Trial] = []
    for i, spec in enumerate(specs):
        indices = list(range(members * i, members * (i + 1)))
        clock, rungs = Clock(lab.runtime.device, dict(shared)), tuple(children.rungs.rows[i])
        trials.append(_Trial(children, spec, [current[c] for c in indices], indices, clock, rungs))
    return trials


@dataclass
class _Trial:
    """One trial with its children, trained or in training."""

    whole: Children
    spec: PairSpec
    children: list[Child]
    indices: list[int]
    clock: Clock
    rungs: tuple[RungRow, ...]

    def __post_init__(self) -> None:
        self.lab, self.watch = self.whole.lab, self.whole.watch

    def pruned_output(self) -> PairOutput:
        """Return the output of a trial that ends where its children are; see `trainables.pair.record.stopped`."""
        about, settings = self._about_part()
        outcome, detail = self._divergence() or (Outcome.PRUNED, "")
        row = record(
            self.spec, self.lab.runtime, outcome, detail, self.lab.started, seconds=self.clock.seconds,
            measured_noise=settings, pruned_step=self.whole.done, **about,
        )  # fmt: skip
        return PairOutput(row, history=self._histories(), rungs=self.rungs)

    def output(self) -> PairOutput:
        lab, spec, runtime = self.lab, self.spec, self.lab.runtime
        if lost := self._divergence():
            about, settings = self._about_part()
            return PairOutput(
                record(
                    spec, runtime, *lost, lab.started, seconds=self.clock.seconds, measured_noise=settings, **about
                ),
                history=self._histories(), rungs=self.rungs,
            )  # fmt: skip
        about, settings = self._about()
        for task in lab.tasks:
            with self.clock.phase("recalibrate"):
                task.batches = lab.recalibration_batches(spec, task)
        moments = [c.moments for c in self.children if c.moments is not None]
        windows = [c.windows for c in self.children]
        curves = score_merges(spec, lab.tasks, [c.weights for c in self.children], self.clock.phase, moments, windows)
        outcome, detail = _judge_viability(spec, curves)
        names = [n for n in trained_names(lab.tasks[0].model) if not lab.tasks[0].is_own(n)]
        a, b = (c.weights for c in self.children[:2])
        relief, points = self._landscape(curves)
        result = record(
            spec, runtime, outcome, detail, lab.started,
            scores=finite(curves.columns()), seconds=self.clock.seconds, measured_noise=settings, landscape=relief,
            **about | self._peak(),
            **finite(_measure_distances(spec, lab.tasks[0].base, a, b, names)), **finite({"cka_val": curves.cka}),
            **curves.describe_choice(),
        )  # fmt: skip
        # a trial that cannot win stores no weights
        weights = dict(curves.weights) if outcome is Outcome.OK else None
        return PairOutput(result, tuple(curves.rows(spec)), self._histories(), weights, points, self.rungs)

    def _name_children(self) -> list[tuple[str, Child, int]]:
        return list(zip(child_names(self.spec.members), self.children, self.indices, strict=True))

    def _histories(self) -> tuple[HistoryRow, ...]:
        return tuple(row for m, c, i in self._name_children() for row in self._history(m, c, i))

    def _divergence(self) -> tuple[Outcome, str] | None:
        lost = [(m, c.diverged_at) for m, c, _ in self._name_children() if c.diverged_at is not None]
        if not lost:
            return None
        member, step = lost[0]
        if not self.whole.courses:
            return Outcome.DIVERGED, f"the trunk diverged by step {step} of {self.spec.branch_step}"
        return Outcome.DIVERGED, f"child {member.upper()} diverged by step {step} of {self.watch.legs[0].steps}"

    def _peak(self) -> dict[str, int]:
        device = self.lab.runtime.device
        return {"peak_memory_bytes": torch.cuda.max_memory_allocated(device)} if device.startswith("cuda") else {}

    def _about_part(self) -> tuple[dict[str, Any], dict[str, float]]:
        """Return what `_about` does, without what is defined for a whole training only."""
        about, settings = self._about()
        for name in ("schedule_end", "schedule_mean"):
            about.pop(name, None)
        settings.pop("dose", None)
        return about, settings

    def _about(self) -> tuple[dict[str, Any], dict[str, float]]:
        lab, spec = self.lab, self.spec
        data, model = lab.data[0], lab.tasks[0].trainee
        steering = [c.steering for c in self.children]
        measured, settings = self.watch.summary(self.indices, spec.momentum, steering)
        clipped = sum(c.clipped_fraction for c in self.children) / len(self.children) if spec.clip_norm else None
        doubts = caveats(
            spec, data.examples, self.watch.legs[0].steps, clipped, has_batchnorm(model), ranks().size
        )  # fmt: skip
        about: dict[str, Any] = {
            "examples": data.examples,
            "steps": self.watch.legs[0].steps,
            "classes": data.classes,
            "tokens_per_example": data.context,
            "bytes_per_token": data.bytes_per_token,
            "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "ranks": ranks().size,
            "weights_sha256": lab.weights_sha256,
            "clipped_fraction": clipped,
            "warnings": doubts,
            "step_seconds": self.whole.step_seconds,
            **describe_dynamics(spec, self.watch.legs[0], steering),
            **self._peak(),
        }
        return about | finite(measured) | finite(lab.probed), settings

    def _history(self, member: str, child: Child, index: int) -> Iterable[HistoryRow]:
        # the rate of the epoch's last step, because the decay reduces the noise to 0
        spec, paper = self.spec, NOISE["paper"]
        defined = optimizers.family(spec.optimizer) in paper.families
        leg, plain = self.watch.legs[index], self.watch.specs[index].batch_size
        measured = self.watch.at_epochs(index, child)
        for e in child.history:
            statistics, size = measured.get(e.epoch), leg.size(e.step - 1, plain)
            settings = {"batch_size": size, "momentum": spec.momentum, "learning_rate": e.learning_rate}
            yield HistoryRow(
                digest=spec.digest,
                member=member,
                epoch=e.epoch,
                step=e.step,
                learning_rate=e.learning_rate,
                noise_paper=paper.predict(settings) if defined else None,
                batch_size=size if leg.plan else None,
                clipped_fraction=e.clipped if spec.clip_norm else None,
                **finite(
                    {"train_loss": e.train_loss, "val_loss": e.val.loss, "val_accuracy": e.val.accuracy,
                     "weight_norm": e.weight_norm, "trace_sigma": statistics and statistics.trace_sigma,
                     "trace_sigma_preconditioned": statistics and statistics.preconditioned,
                     "gradient_norm2": statistics and statistics.norm2}
                ),
            )  # fmt: skip

    def _landscape(self, curves: MergeCurves) -> tuple[dict[str, float | None], tuple[PlaneRow, ...]]:
        runtime, spec, tasks = self.lab.runtime, self.spec, self.lab.tasks
        if not (runtime.landscape or runtime.plane):
            return {}, ()
        weights = [c.weights for c in self.children]
        with self.clock.phase("landscape"):
            relief: dict[str, float | None] = {}
            if runtime.landscape:
                relief = relief_columns(tasks, weights, curves.recalibrated, spec.stream("landscape"))
            rows = pair_plane(tasks, weights, runtime.plane) if runtime.plane else ()
            points = tuple(
                PlaneRow(spec.digest, spec.config, a, b, _number(train), _number(val)) for a, b, train, val in rows
            )
        return relief, points


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _measure_distances(spec: PairSpec, base: Weights, a: Weights, b: Weights, names: Sequence[str]) -> dict[str, float]:
    found = geometry(base, a, b, names)
    # children without a common base have no task vectors
    return found | {"task_cosine": math.nan} if spec.protocol == "scratch" else found


def _judge_viability(spec: PairSpec, curves: MergeCurves) -> tuple[Outcome, str]:
    worst = min(p["val"].accuracy for p in (*curves.parents, *curves.others))
    if fault := curves.fault():
        return Outcome.NOT_VIABLE, fault
    highest = max(p["val"].loss for p in (*curves.parents, *curves.others))
    if spec.loss_ceiling and highest > spec.loss_ceiling:
        return (
            Outcome.NOT_VIABLE,
            f"a parent's validation loss {highest:.4g} is above the ceiling {spec.loss_ceiling:g}",
        )
    if worst < spec.accuracy_floor:
        return (
            Outcome.NOT_VIABLE,
            f"a parent's validation accuracy {worst:.3f} is below the floor {spec.accuracy_floor}",
        )
    who, lost = "both" if spec.members == 2 else "all", curves.lost()
    return Outcome.OK, f"{who} children trained and merged" + (f"; {lost}" if lost else "")


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainables.pair", description="Run one trial from a JSON spec.")
    parser.add_argument("spec", type=Path, help="file with a pair spec, as in the column `spec`")
    parser.add_argument("--data", dest="data_root", metavar="ROOT", help="folder with the data sets")
    parser.add_argument("--bases", metavar="DIR", help="folder for start weights and trunks")
    parser.add_argument(
        "--checkpoints", metavar="DIR", help="folder for checkpoints, from which a stopped trial continues"
    )
    parser.add_argument("--checkpoint-steps", type=int, metavar="K", help="steps between checkpoints (default: about "
                        "one minute)")  # fmt: skip
    parser.add_argument("--cache", metavar="DIR", help="folder for unpacked archives and decoded images")
    parser.add_argument("--device", default="cpu", help="torch device (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    parser.add_argument(
        "--measure", type=int, metavar="K", help="gradient measurements per child (default: 2 %% of time)"
    )
    parser.add_argument("--plane", type=int, default=0, metavar="N", help="loss plane with N points per side")
    for name, text in {
        "landscape": "compute Hessian traces, sharpness and excess barrier",
        "deterministic": "use deterministic algorithms only",
        "download": "fetch the data set if it is missing",
    }.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the trial of a JSON spec, print its row as JSON and return the exit code."""
    guard_output()
    args = _arguments().parse_args(argv)
    try:
        spec = PairSpec.from_json(args.spec.read_text())
        known = {f.name for f in fields(Runtime)}
        runtime = Runtime(**{k: v for k, v in vars(args).items() if k in known})
        with join_launched_group() as device:
            output = run_trials([spec], replace(runtime, device=device or runtime.device))[0]
            leads = ranks().leads
    except (ValueError, KeyError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if leads:
        print(json.dumps(output.result.to_row(), indent=1))
        drop_checkpoints(runtime, output.result.digest)
    return 0
