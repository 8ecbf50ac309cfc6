"""Function that Tune runs in its workers: the trials of a job.

Every worker imports this module before its first trial, so it imports neither the sampler nor the analysis.
"""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

from ray import tune

from sweeper.errors import StorageError
from sweeper.runner.jobs import Job, execute
from trainables.runtime import Runtime


def run_job(config: dict[str, Any]) -> None:
    """Run the job of a configuration of Tune, and report the rows of its trials or the error of the storage.

    Tune reuses the process, so this function leaves no global state.
    """
    warnings.simplefilter("ignore")
    job, trials = Job.from_json(config["job"]), None
    if config["ranks"]:
        from sweeper.runner.ray_tune.ranks import run_apart

        trials = partial(run_apart, run=config["run"], **config["ranks"])
    try:
        rows = execute(job, Runtime(**config["runtime"]), config["run"], _report_rung, trials)
    except StorageError as error:
        tune.report({"storage": str(error)})
        return
    tune.report({"rows": json.dumps(rows)})


def _report_rung(record: Mapping[str, Any]) -> None:
    # if the driver stops the trial, this call does not return: the thread ends, and the driver writes the trial
    if "rung" in record:
        plain = {k: record[k] for k in ("rung", "epoch", "step", "merged_loss_val", "merged_accuracy_val")}
        tune.report({**plain, "look": pickle.dumps(dict(record))})
