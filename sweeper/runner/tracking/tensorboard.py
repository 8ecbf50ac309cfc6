"""TensorBoard: one event file for each trial, with its curves, its scores and its settings."""

from __future__ import annotations

import tempfile
from pathlib import Path

from sweeper.runner.tracking.record import TrialRecord
from sweeper.storage.location import Place


class TensorBoard:
    """Tracker that writes `NAME/events.out.tfevents.DIGEST` to a folder; writing a trial again replaces its file.

    Args:
        place: Folder for `tensorboard --logdir`.
        folder: Folder within `place`; empty for `place` itself.
    """

    def __init__(self, place: Place, folder: str = "tensorboard") -> None:
        self.place, self.prefix = place, f"{folder}/" if folder else ""

    def track(self, record: TrialRecord) -> None:
        """Write the event file of a trial.

        Raises:
            StorageError: The folder cannot be written to.
        """
        self.place.write(f"{self.prefix}{record.name}/events.out.tfevents.{record.digest}", _make_events(record))


def _make_events(record: TrialRecord) -> bytes:
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    scores = {f"score/{name}": value for name, value in record.scores.items()}
    with tempfile.TemporaryDirectory(prefix="sweeper-") as folder:
        with SummaryWriter(folder) as writer:
            for step, values in record.curves:
                for name, value in values.items():
                    writer.add_scalar(name, value, step, walltime=record.started)
            # at the number of the trial, so that a chart of all runs shows the course of the search
            for name, value in scores.items():
                writer.add_scalar(name, value, record.number, walltime=record.started)
            for summary in hparams({**record.settings, "outcome": record.outcome}, scores):
                writer._get_file_writer().add_summary(summary, walltime=record.started)
        (file,) = Path(folder).iterdir()
        return file.read_bytes()
