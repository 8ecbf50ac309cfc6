"""Model card: settings and scores, every text escaped, no path of the machine, no file of the user replaced."""

from pathlib import Path

import pytest

from sweeper import SpecError, SweepSpec
from sweeper.cli.main import main
from sweeper.runner.results.card import MARK, check_card, format_card
from sweeper.runner.results.winner import find_fresh
from tests.support.fake_sweep import trial
from tests.support.inline_sweeps import sweep
from trainables.spec import PairSpec

SPEC = SweepSpec(space="synthetic", objective="gain_mean")
PAIR = PairSpec(dataset="digits", model="small_cnn", learning_rate=0.1, batch_size=32).to_json()


def card(**more: object) -> str:
    return format_card("best.safetensors", SPEC, {**trial(3).result.to_row(), "spec": PAIR, **more})


def test_a_card_holds_scores_settings_data_and_how_to_load_it() -> None:
    row = trial(3).result.to_row()
    text = card()
    assert text.startswith(f"{MARK}\n# Merge of 2 fine-tuned models x on x\n")
    assert f"| learning rate | {row['learning_rate']} |" in text
    assert f"| merged, linear 1/2 | {row['merged_loss_val']:.3g} | {row['merged_loss_test']:.3g} |" in text
    assert "720 training examples, 10 classes" in text
    assert "load_state_dict(load_file('best.safetensors'))" in text


def test_a_card_says_whose_scores_it_holds() -> None:
    alone = "These are the scores of the saved pair alone."
    assert f"\n{alone}\n" in card()
    row = {**trial(3).result.to_row(), "spec": PAIR}
    fresh = [
        {"chosen_loss_test": 0.3, "chosen_accuracy_test": 0.9},
        {"chosen_loss_test": 0.5, "chosen_accuracy_test": 0.8},
    ]
    sentence = "On test, 2 fresh pairs with the same settings, which chose nothing, have merged loss 0.4 ± 0.1 and"
    assert f"\n{alone} {sentence} accuracy 0.85 ± 0.05.\n" in format_card("best", SPEC, row, None, fresh)
    fresh[0]["chosen_loss_test"] = float("inf")
    assert f"{alone} On test, 2 fresh pairs with the same settings, which chose nothing, have accuracy 0.85" in (
        format_card("best", SPEC, row, None, fresh)
    )


def test_the_card_of_a_confirmed_winner_has_the_mean_of_its_fresh_pairs(tmp_path: Path) -> None:
    results = sweep(tmp_path / "run", trials=24, sampler="tpe", map=0.5, confirm=0.4)
    rows = [r for r in results.trials.to_pylist() if r["stage"] == "report" and r["outcome"] == "ok"]
    assert rows
    fresh = find_fresh(tmp_path / "run", rows[0])
    assert [r["chosen_loss_test"] for r in fresh] == [
        r["chosen_loss_test"] for r in rows if r["config"] == rows[0]["config"]
    ]
    other = next(r for r in results.trials.to_pylist() if r["config"] not in {f["config"] for f in rows})
    assert find_fresh(tmp_path / "run", other) == []


def test_texts_are_escaped_and_paths_cut() -> None:
    text = card(
        model="/home/ann/secret/net.py", dataset="<b>|[x](http://y)`\x1b[31m", augmentation="~/a/b c:\\d\\e ../f/g"
    )
    for word in ("/home", "ann", "secret", "<b>", "\x1b", "](http", "~/a", "../f", "\\d\\"):
        assert word not in text.replace(MARK, "")
    assert "net.py" in text
    assert "&lt;b>\\|\\[x\\]\\(" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.replace("\\|", "").count("|") in (3, 6) for line in lines)


def test_a_card_replaces_no_file_of_the_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_card(tmp_path / "a.safetensors") == tmp_path / "a.md"
    assert check_card(tmp_path / "a.md") == tmp_path / "a.md.md"
    (tmp_path / "a.md").write_text(f"{MARK}\nold")
    assert check_card(tmp_path / "a.safetensors") == tmp_path / "a.md"
    notes = tmp_path / "README.md"
    notes.write_text("mine")
    with pytest.raises(SpecError, match="is not a model card"):
        check_card(tmp_path / "README.safetensors")
    sweep(tmp_path / "run", trials=2)
    assert main(["best", str(tmp_path / "run"), "--save", str(tmp_path / "README")]) == 2
    assert capsys.readouterr().err == (
        f"error: {notes} is not a model card, and the card would replace it; choose another --save\n"
    )
    assert notes.read_text() == "mine"


def test_a_card_of_several_tasks_names_the_head_of_each() -> None:
    tasks = {"pair_kind": "tasks", "datasets": ["digits", "mnist", "my_set"], "model": "mlp"}
    spec = PairSpec.from_mapping({**tasks, "learning_rate": 0.1, "batch_size": 32})
    text = card(spec=spec.to_json(), members=3, dataset="digits + mnist + my_set", c_loss_val=0.25)
    assert "- `c/`: task c (my\\_set)" in text
    assert "| child of task c (my\\_set), on its task | 0.25 |" in text
    assert "parent A" not in text
    assert "load_state_dict({k.removeprefix(task): v" in text
    assert "best_model(task='a')" in text
