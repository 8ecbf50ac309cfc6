"""The process of one sweep: `run(SweepSpec)` as the command line does it; how it ended is left in its control folder.

`python -m sweeper.service.scheduler.worker FOLDER LOCK` is started by the server, and goes on without it.
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
from sweeper.runner.results import Results, load_results
from sweeper.runner.signals import sigterm_as_sigint
from sweeper.runner.status import Callbacks
from sweeper.service.scheduler.memory import limit_memory
from sweeper.service.scheduler.process import Control, Outcome
from sweeper.storage.lease import outwaited
from sweeper.storage.location import place_of
from trainables.io.printable import guard_output, printable_line


def main(folder: str, lock: str) -> int:
    """Run the sweep of a control folder; returns the exit code."""
    guard_output()
    control = Control(Path(folder))
    control.enter(int(lock))
    task = control.task
    if most := task.get("memory"):
        limit_memory(most)
    try:
        with sigterm_as_sigint():
            outcome = _run(control, task)
    except KeyboardInterrupt:
        outcome = _interrupted(control, task)
    except (SpecError, OSError) as error:
        outcome = Outcome(State.FAILED, str(error))
    except MemoryError:
        outcome = Outcome(State.FAILED, f"it needs more memory than a sweep may take here{_limit(task)}")
    except Exception as error:
        import traceback

        traceback.print_exc()
        text = " ".join(str(error).split())
        outcome = Outcome(State.FAILED, f"internal: {type(error).__name__}: {text}")
    print(f"{outcome.state}: {printable_line(outcome.reason)}", file=sys.stderr, flush=True)
    control.end(outcome, task["attempt"])
    return 0


def _limit(task: Mapping[str, Any]) -> str:
    return f", {task['memory'] / 1e9:.3g} GB" if task.get("memory") else ""


def _run(control: Control, task: Mapping[str, Any]) -> Outcome:
    from sweeper.runner import run

    path = control.folder / "spec.yaml"
    sweep = SpecSource(*read_yaml(path, stored=True), str(path)).prepare()
    spec = sweep.spec

    def stop() -> str:
        found = control.halted(task["attempt"])
        return found.cause if found else ""

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    assert spec.out is not None
    # an earlier process of this sweep that was killed has left its lease in the store
    if cause := outwaited(place_of(spec.out).patient(), say, stop):
        return _stopped(control, task, spec, cause)
    listener = _Begun(control, lift=bool(task.get("memory")) and spec.runner == "ray")
    callbacks = Callbacks(listener, say=say, stop=stop)
    if task["kind"] == "extend":
        plan = _plan(sweep, task)
        if not plan.specs:  # an earlier attempt died after its last trial
            return Outcome(State.DONE, "all that a firm answer lacks and that can be run is there")
        results = run.extend(sweep, plan, callbacks)
    else:
        results = run.run_prepared(sweep, callbacks)
    return _ended(control, task, spec, results)


class _Begun:
    """Tells the control folder when trials are started, and lifts the limit of memory where they run on Ray."""

    def __init__(self, control: Control, lift: bool) -> None:
        self.tell: Callable[[], None] | None = control.begin
        self.lift = lift

    def __call__(self, status: Any) -> None:
        tell, self.tell = self.tell, None
        if tell:
            if self.lift:  # the limit held while the driver built a model to check the trials
                limit_memory(0)
            tell()


def _plan(sweep: PreparedSweep, task: Mapping[str, Any]) -> Any:
    from sweeper.analysis.evidence.plan import plan_extension

    options = task.get("options", {})
    wanted = {k: options.get(k) for k in ("objective", "noise", "repeats", "noises")}
    return plan_extension(sweep.spec, sweep.space, **wanted).plan


def _stopped(control: Control, task: Mapping[str, Any], spec: SweepSpec, cause: str) -> Outcome:
    assert spec.out is not None
    try:
        found = load_results(spec.out)
    except SpecError:  # the earlier process had not come so far
        return Outcome(State.FAILED, cause)
    return _ended(control, task, spec, replace(found, reason=cause))


def _ended(control: Control, task: Mapping[str, Any], spec: SweepSpec, results: Results) -> Outcome:
    from dashboards.page.page import write_page

    halted = control.halted(task["attempt"])
    # asked before the first trial was started, it was no interruption
    if results.interrupted or (halted and halted.kind != "stop" and results.reason == halted.cause):
        return _interrupted(control, task)
    write_page(results.run)
    outcomes = results.trials["outcome"].to_pylist()
    if results.failed >= spec.max_failed or "ok" not in outcomes:
        return Outcome(State.FAILED, results.reason or f"none of {len(outcomes)} trials was successful")
    return Outcome(State.DONE, results.reason or "all trials are run")


def _interrupted(control: Control, task: Mapping[str, Any]) -> Outcome:
    halted = control.halted(task["attempt"])
    if halted and halted.kind == "cancel":
        return Outcome(State.CANCELLED, halted.cause)
    if halted and halted.kind == "stop":
        return Outcome(State.DONE, f"{halted.cause}; its process was ended before the last trials were finished")
    return Outcome(State.INTERRUPTED, halted.cause if halted else "a signal ended its process")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
