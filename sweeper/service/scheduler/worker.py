"""The process of one sweep: it runs the spec as the command line does and leaves its outcome in a control folder.

The server starts `python -m sweeper.service.scheduler.worker FOLDER LOCK`; the process outlives the server.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sweeper.client.models import State
from sweeper.config.load import SpecSource
from sweeper.config.prepared import PreparedSweep
from sweeper.config.spec import SweepSpec
from sweeper.config.yaml_source import read_yaml
from sweeper.errors import SpecError
from sweeper.formatting import pluralize
from sweeper.runner.results.results import Results, load_results
from sweeper.runner.signals import sigterm_as_sigint
from sweeper.runner.status import Callbacks
from sweeper.service.policy.memory import limit_memory
from sweeper.service.scheduler.process import Control, Outcome
from sweeper.storage.lease import await_free
from sweeper.storage.location import place_of
from trainables.io.printable import guard_output, printable_line


def main(folder: str, lock: str) -> int:
    """Run the sweep of a control folder and return the exit code."""
    guard_output()
    control = Control(Path(folder))
    control.claim(int(lock))
    task = control.task
    if limit := task.get("memory"):
        limit_memory(limit)
    try:
        with sigterm_as_sigint():
            outcome = _run(control, task)
    except KeyboardInterrupt:
        outcome = _interruption(control, task)
    except (SpecError, OSError) as error:
        outcome = Outcome(State.FAILED, str(error))
    except MemoryError:
        outcome = Outcome(State.FAILED, f"the sweep needs more memory than this server allows{_memory_limit(task)}")
    except Exception as error:
        import traceback

        traceback.print_exc()
        text = " ".join(str(error).split())
        outcome = Outcome(State.FAILED, f"internal: {type(error).__name__}: {text}")
    print(f"{outcome.state}: {printable_line(outcome.reason)}", file=sys.stderr, flush=True)
    control.end(outcome, task["attempt"])
    return 0


def _memory_limit(task: Mapping[str, Any]) -> str:
    return f", {task['memory'] / 1e9:.3g} GB" if task.get("memory") else ""


def _run(control: Control, task: Mapping[str, Any]) -> Outcome:
    from sweeper.runner import run

    path = control.folder / "spec.yaml"
    sweep = SpecSource(*read_yaml(path, stored=True), str(path)).prepare()
    spec = sweep.spec

    def stop() -> str:
        halt = control.read_halt(task["attempt"])
        return halt.cause if halt else ""

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    assert spec.out is not None
    # a killed earlier process of this sweep may have left its lease in the store
    if cause := await_free(place_of(spec.out).patient(), say, stop):
        return _stop_early(control, task, spec, cause)
    listener = _FirstTrialListener(control, lift=bool(task.get("memory")) and spec.runner == "ray")
    callbacks = Callbacks(listener, say=say, stop=stop)
    if task["kind"] == "extend":
        plan = _plan(sweep, task)
        if not plan.specs:  # an earlier attempt died after its last trial
            return Outcome(State.DONE, "no further trial that can run would make the answer firmer")
        results = run.extend(sweep, plan, callbacks)
    else:
        results = run.run_prepared(sweep, callbacks)
    return _outcome_of(control, task, spec, results)


class _FirstTrialListener:
    """Records when the first trial starts, and then lifts the memory limit if trials run on Ray."""

    def __init__(self, control: Control, lift: bool) -> None:
        self.tell: Callable[[], None] | None = control.begin
        self.lift = lift

    def __call__(self, status: Any) -> None:
        tell, self.tell = self.tell, None
        if tell:
            if self.lift:  # the limit was for the model that the driver built to check the trials
                limit_memory(0)
            tell()


def _plan(sweep: PreparedSweep, task: Mapping[str, Any]) -> Any:
    from sweeper.analysis.evidence.plan import plan_extension

    options = task.get("options", {})
    wanted = {k: options.get(k) for k in ("objective", "noise", "repeats", "noises")}
    return plan_extension(sweep.spec, sweep.space, **wanted).plan


def _stop_early(control: Control, task: Mapping[str, Any], spec: SweepSpec, cause: str) -> Outcome:
    assert spec.out is not None
    try:
        results = load_results(spec.out)
    except SpecError:  # the earlier process had no results yet
        return Outcome(State.FAILED, cause)
    return _outcome_of(control, task, spec, replace(results, reason=cause))


def _outcome_of(control: Control, task: Mapping[str, Any], spec: SweepSpec, results: Results) -> Outcome:
    from dashboards.page.page import write_page

    halt = control.read_halt(task["attempt"])
    # a cancel before the first trial does not count as an interruption in the results
    if results.interrupted or (halt and halt.kind != "stop" and results.reason == halt.cause):
        return _interruption(control, task)
    write_page(results.run)
    outcomes = results.trials["outcome"].to_pylist()
    if results.failed >= spec.max_failed or "ok" not in outcomes:
        return Outcome(State.FAILED, results.reason or f"none of {pluralize(len(outcomes), 'trial')} succeeded")
    return Outcome(State.DONE, results.reason or "all trials have run")


def _interruption(control: Control, task: Mapping[str, Any]) -> Outcome:
    halt = control.read_halt(task["attempt"])
    if halt and halt.kind == "cancel":
        return Outcome(State.CANCELLED, halt.cause)
    if halt and halt.kind == "stop":
        return Outcome(State.DONE, f"{halt.cause}; process ended before the last trials finished")
    return Outcome(State.INTERRUPTED, halt.cause if halt else "a signal ended the process")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
