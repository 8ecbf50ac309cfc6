"""Weights & Biases: one run for each trial, in a group for each sweep.

`WANDB_MODE`, `WANDB_PROJECT`, `WANDB_ENTITY` and `WANDB_BASE_URL` act as everywhere. A run holds settings, scores and
curves, and nothing about the machine.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

from sweeper.errors import SpecError
from sweeper.runner.tracking.record import TrialRecord
from sweeper.storage.location import Place

PROJECT = "sweeper"
SECONDS = 60.0
"""Time for a run to start, and to end."""


class WeightsAndBiases:
    """Tracker that sends trials to Weights & Biases, or writes them to `wandb/` in the run folder when offline.

    Args:
        place: The run folder; the files of a sweep in a store lie in `wandb/` of the working folder.
    """

    def __init__(self, place: Place) -> None:
        self.folder = str(place.local) if place.local else None

    def track(self, record: TrialRecord) -> None:
        """Write the run of a trial.

        Raises:
            Exception: Of wandb, for instance without a network.
        """
        wandb = _load()
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            group=record.group,
            # the same trial of the same sweep is the same run
            id=f"{record.digest}-{hashlib.sha256(record.group.encode()).hexdigest()[:8]}",
            name=f"{record.group}/{record.name}",
            job_type="trial",
            tags=[record.outcome],
            config={**record.settings, "outcome": record.outcome},
            dir=self.folder,
            reinit="create_new",
            resume="allow",
            settings=_make_settings(wandb),
        )
        for step, values in record.curves:
            run.log(dict(values), step=step)
        run.summary.update(dict(record.scores))
        run.finish()


def check_account() -> None:
    """Check that wandb may send, or is offline.

    Raises:
        SpecError: It needs an account.
    """
    wandb = _load()
    if wandb.setup().settings.mode == "online" and not wandb.login(prompt=False):
        raise SpecError(
            "track wandb needs an account: run `wandb login`, or set WANDB_MODE=offline to write files only"
        )


def _load() -> Any:
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # no reports of errors to the makers of wandb
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    return wandb


def _make_settings(wandb: Any) -> Any:
    return wandb.Settings(
        silent=True,
        console="off",
        disable_code=True,
        disable_git=True,
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
        init_timeout=SECONDS,
        finish_timeout=SECONDS,
    )
