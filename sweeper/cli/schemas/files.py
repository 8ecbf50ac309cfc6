"""Outputs about files, own checkpoints and names."""

from __future__ import annotations

from typing import Any

from sweeper.cli.schemas.base import Output, say


class ChosenMerge(Output):
    """The merge that validation chose."""

    merge: str | None = say("name of the merge")
    coefficient: float | None = say("its coefficient")


class MergeScores(Output):
    """Scores of one merge at the coefficient with the lowest validation loss."""

    merge: str = say("name of the merge")
    coefficient: float = say("its coefficient")
    loss_train: float | None = say("training loss [nat]")
    accuracy_train: float | None = say("training accuracy")
    loss_val: float | None = say("validation loss [nat]")
    accuracy_val: float | None = say("validation accuracy")
    loss_test: float | None = say("test loss [nat]")
    accuracy_test: float | None = say("test accuracy")


class Merge(Output):
    """Merges of own checkpoints: `merge`."""

    models: list[str] = say("files of the models")
    base: str | None = say("file of the base")
    model: str = say("name of the model")
    data_set: str = say("name of the data set")
    outcome: str = say("outcome")
    outcome_detail: str = say("one sentence on the outcome")
    chosen: ChosenMerge = say("merge that validation chose")
    scores: dict[str, float | None] = say("column of the trials table -> score")
    bytes_per_token: float | None = say("bytes of text per token, for bits per byte; null for images")
    merges: list[MergeScores] = say("scores of every merge, at the coefficient with the lowest validation loss")
    not_finite: list[str] = say("merges without a finite score")
    run: str = say("folder of the tables")
    page: str = say("file of the page")
    weights: str | None = say("file of the chosen merge's weights")
    saved: str | None = say("file of `--save`")


class FolderMerge(Output):
    """A merge of model folders or adapters without data: `merge --coefficient`."""

    models: list[str] = say("folders of the models")
    base: str | None = say("folder of the base")
    merge: str = say("name of the merge")
    coefficient: float = say("its coefficient")
    rank: int | None = say("rank of the written adapter; None for a whole model")
    discarded: float | None = say("share of the merged update's squared norm that the adapter lacks, with `rank`")
    tensors: int = say("number of tensors")
    parameters: int = say("number of their entries")
    bytes: int = say("size of the written weights [bytes]")
    seconds: float = say("duration [s]")
    saved: str = say("folder of `--save`")


class ExportedTable(Output):
    """A table as a file: `export`."""

    file: str = say("the file")
    rows: int = say("number of rows")


class ExportedFigures(Output):
    """Page and figures: `export --html`, `--png`, `--svg`."""

    page: str = say("file of the page, with `--html`", sometimes=True)
    png: list[str] = say("files of the figures, with `--png`", sometimes=True)
    svg: list[str] = say("files of the figures, with `--svg`", sometimes=True)


class ExportedStudy(Output):
    """Trials as an Optuna study: `export --format optuna`."""

    file: str = say("the SQLite file")
    trials: int = say("number of trials")


class ExportedEvents(Output):
    """Trials for TensorBoard: `export --format tensorboard`."""

    folder: str = say("folder for `tensorboard --logdir`")
    trials: int = say("number of trials")


class Import(Output):
    """An imported table: `import`."""

    run: str = say("run folder")
    trials: int = say("number of trials")
    configs: int = say("number of configurations")
    outcomes: dict[str, int] = say("outcome -> trials")
    sampler: str = say("sampler that chose the configurations")
    notes: list[str] = say("what was left out or assumed")


class Compaction(Output):
    """Joined files of tables: `compact`."""

    run: str = say("run folder or URI")
    parts: dict[str, int] = say("table -> files that became one")


class SpaceView(Output):
    """A search space."""

    name: str = say("name")
    doc: str = say("content")
    budget: str = say("cost in words")
    source: str = say("file of the space")
    knobs: dict[str, str] = say("knob -> its range")
    fixed: dict[str, Any] = say("field of the trial -> fixed value")
    smoke: dict[str, Any] = say("field -> value in the small variant")


class SpaceList(Output):
    """Search spaces: `spaces`."""

    items: list[SpaceView] = say("the spaces")


class NoiseView(Output):
    """A definition of noise."""

    name: str = say("name")
    kind: str = say("predicted, measured or fitted")
    formula: str = say("formula")
    unit: str = say("unit")
    solves: list[str] = say("knobs for which the formula can be solved")
    optimizers: list[str] = say("families of optimizers for which it is defined")
    source: str = say("where the formula comes from")


class NoiseList(Output):
    """Definitions of noise: `noises`."""

    items: list[NoiseView] = say("the definitions")


class MergeView(Output):
    """A merge."""

    name: str = say("name")
    formula: str = say("formula")
    grid: list[float] = say("coefficients that are tried")
    symbol: str = say("symbol of the coefficient")
    source: str = say("where the merge comes from")


class MergeList(Output):
    """Merges: `merges`."""

    items: list[MergeView] = say("the merges")
