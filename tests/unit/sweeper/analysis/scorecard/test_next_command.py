"""The next command: saving comes first, then the settings."""

from sweeper.analysis.scorecard.badge import Badge, Word
from sweeper.analysis.scorecard.next_command import find_next, follow_save

HUMP = Badge(Word.HUMP, "the gain rises and falls")


def test_once_the_weights_are_saved_the_settings_are_next() -> None:
    save = find_next(HUMP, {"trainable": "mlp"}, "runs/a b", False, " --objective merged_loss")
    assert save == "sweeper best 'runs/a b' --objective merged_loss --save merged.safetensors"
    assert follow_save(save) == "sweeper recommend 'runs/a b' --objective merged_loss"
    assert follow_save("sweeper extend runs/a") == "sweeper extend runs/a"


def test_an_unfinished_sweep_is_resumed_and_closed_forms_are_not_saved() -> None:
    assert find_next(HUMP, None, "runs/a", True) == "sweeper resume runs/a"
    assert find_next(HUMP, None, "runs/a", False) == "sweeper status runs/a"
    assert find_next(HUMP, {"trainable": "synthetic"}, "runs/a", False) == "sweeper recommend runs/a"
