"""Command `recommend`: settings to use, or learning rates that reach the best noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sweeper.analysis.settings.settings import FORMATS
from sweeper.cli.commands.inspect import read_run
from sweeper.cli.options import FLOAT, INTEGER, OBJECTIVE_HELP, RUN_DIR, SERVED, SHOWN_NOISE, objectives
from sweeper.cli.output import emit
from sweeper.cli.parsing import Arguments, Choice, Option, command
from sweeper.errors import ExitCode, SpecError
from sweeper.formatting import wrap

_ADVICE = (
    Option("--batch-size", "N", "Batch size to use; repeatable.", type=INTEGER, multiple=True),
    Option("--learning-rate", "X", "Learning rate to use.", type=FLOAT),
    Option("--momentum", "X", "Momentum to use.", type=FLOAT),
    Option("--weight-decay", "X", "Weight decay to use.", type=FLOAT),
    Option("--objective", "NAME", f"{OBJECTIVE_HELP} (default: the sweep's for the settings, gain_mean and merged_loss "
           "for the noise).", names=objectives),
    Option("--format", "|".join(FORMATS), "Print the settings as a table, as a sweep file, as a Python dict, or as "
           "arguments of torch.optim.", type=Choice(FORMATS), default="table", show_default=True,
           names=lambda: FORMATS),
    Option("--by-noise", "", "Also print values that reach the best noise, all else as in the winner.",
           default=False),
)  # fmt: skip
FIXED = ("learning_rate", "momentum", "weight_decay")


@command(RUN_DIR, _ADVICE, SHOWN_NOISE, SERVED)
def recommend(args: Arguments) -> int:
    """`sweeper recommend DIR`."""
    from sweeper.analysis.settings.advice import advise_settings
    from sweeper.analysis.settings.settings import NoSettingsError
    from sweeper.analysis.summary import advise

    check_form(args)
    spec, trials, noise = read_run(args)
    fixed = {name: getattr(args, name) for name in FIXED}
    record: dict[str, Any] = {"settings": [], "text": "", "formats": {}}
    missing: list[str] = []
    try:
        advice = advise_settings(
            spec, trials, batch_sizes=args.batch_size, objective=args.objective, noise=noise, **fixed
        )
        record = advice.record()
    except NoSettingsError as error:
        missing.append(str(error))
    matched: dict[str, Any] = {}
    if wants_noise(args, record):
        try:
            objectives = [args.objective] if args.objective else []
            matched = advise(spec, trials, objectives, noise, batch_sizes=args.batch_size, **fixed)
        except SpecError as error:
            missing.append(str(error))
    emit_recommendation(args, record, matched, missing)
    return ExitCode.DONE


def check_form(args: Arguments) -> None:
    """Check that a format for one batch size gets one, and that the values by noise have a place to stand.

    Raises:
        SpecError: The format gets several batch sizes, or has no place for these values.
    """
    if args.format != "table" and args.by_noise and not args.json:
        raise SpecError(f"--by-noise prints a table: leave it out, or --format {args.format}")
    if args.format != "table" and len(args.batch_size or ()) > 1:
        raise SpecError(f"--format {args.format} takes one batch size, got {len(args.batch_size)}")


def wants_noise(args: Arguments, record: Mapping[str, Any]) -> bool:
    """Return whether the command shows values that reach the best noise: on request, or in place of settings.

    Args:
        args: The command's arguments.
        record: Settings with their texts; see `emit_recommendation`.
    """
    instead = not record["settings"] and (args.format == "table" or args.json)
    solvable = not (args.batch_size and args.learning_rate is not None)
    return args.by_noise or (instead and solvable)


def emit_recommendation(args: Arguments, record: dict[str, Any], matched: dict[str, Any], missing: list[str]) -> None:
    """Print settings, and values that reach the best noise if there are any.

    Args:
        args: The command's arguments.
        record: Settings with their texts, as `sweeper.analysis.settings.advice.SettingsAdvice.record` returns them.
        matched: Objective -> `message` and `text` of the values that reach its best noise.
        missing: Reasons for missing parts.

    Raises:
        SpecError: There is nothing to print.
    """
    if missing and not (record["settings"] or matched):
        raise SpecError(missing[0])
    if args.format != "table" and not args.json:
        emit(False, None, record["formats"][args.format].rstrip("\n"))
        return
    parts = [record["text"]] if record["settings"] else []
    if matched:
        tables = (f"{name}: {advice['message']}\n{advice['text']}" for name, advice in matched.items())
        parts.append("Values that reach the best noise, all else as in the winner:")
        parts += tables
    parts += [wrap(f"not shown: {reason}", 0) for reason in missing]
    whole = {"settings": record["settings"], "formats": record["formats"], "noise_matched": matched, "missing": missing}
    emit(args.json, whole, "\n\n".join(parts))
