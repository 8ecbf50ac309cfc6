"""The winner of a service's sweep on this machine: a file or a model folder, with its card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sweeper.client import Client, ClientError
from sweeper.client.models import SweepDetail
from sweeper.config.spec import SweepSpec
from sweeper.errors import SpecError


def save_winner(client: Client, sweep: SweepDetail, target: Path, rank: int | None) -> dict[str, Any]:
    """Write the winner as `sweeper best --save` does from a run folder.

    Returns:
        `saved`, `card` and, with a rank, `discarded`.

    Raises:
        ClientError: The service has no winner, no weights of it, or refuses; or another trial took the lead meanwhile.
        SpecError: The target is in use or cannot be written, or the rank needs a folder.
    """
    from sweeper.runner.results.card import CARD, check_card, format_card
    from sweeper.runner.results.winner import check_file, find_row
    from trainables.spec import PairSpec

    digest = client.best(sweep.id)["digest"]
    row = find_row(client.trials(sweep.id, where={"digest": digest}), digest)
    if PairSpec.from_json(row["spec"]).is_language_model and target.suffix != ".safetensors":
        discarded = client.save_model(sweep.id, target, rank)
        share = {} if discarded is None else {"discarded": discarded}
        return {"saved": str(target.absolute()), "card": str(target.absolute() / CARD), **share}
    check_file(target, row["model"], rank)
    card = check_card(target)
    client.download_weights(sweep.id, target)
    if client.best(sweep.id)["digest"] != digest:  # a trial of a running sweep took the lead
        target.unlink(missing_ok=True)
        raise ClientError("the winner changed while its weights came; run the command again")
    try:
        card.write_text(format_card(target.name, SweepSpec.checked(sweep.spec), row))
    except OSError as error:
        raise SpecError(f"cannot write {card}: {error.strerror or error}") from None
    return {"saved": str(target.absolute()), "card": str(card.absolute())}
