"""Parsing: options come from the fields of a sweep, names may be shortened, shells complete names."""

from typing import Any

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from sweeper.cli.main import cli, main
from sweeper.config.spec import keys
from sweeper.errors import ExitCode


def parse(*argv: str) -> dict[str, Any]:
    """Return the parameters of a command line that is not run."""
    parsed: list[dict[str, Any]] = []
    cli.main(list(argv), standalone_mode=False, obj=lambda _, args: parsed.append(vars(args)))
    return parsed[0]


def complete(*words: str) -> set[str]:
    """Return what a shell offers for the last word."""
    shell = ShellComplete(cli, {}, "sweeper", "_SWEEPER_COMPLETE")
    return {item.value for item in shell.get_completions(list(words[:-1]), words[-1])}


def test_every_field_with_a_flag_is_an_option_in_its_group() -> None:
    command = cli.get_command(click.Context(cli), "run")
    assert command is not None
    groups = {p.name: p.group for p in command.params if hasattr(p, "group")}
    assert set(keys("flag")) <= set(groups)
    assert (groups["sampler"], groups["threads"], groups["max_seconds"]) == ("search", "trial", "budget")
    assert (groups["workers"], groups["webhook"]) == ("cluster", "service")
    help_text = CliRunner().invoke(cli, ["run", "--help"]).output
    titles = [f"\n{title}:\n" for title in ("Search", "Trial", "Budget", "Cluster", "Service")]
    assert [help_text.index(title) for title in titles] == sorted(help_text.index(title) for title in titles)


def test_options_take_several_values_and_may_be_shortened() -> None:
    args = parse("merge", "--models", "a", "b", "--bas", "d", "--model", "net", "--set", "x=1", "--set=y=2")
    assert (args["models"], args["base"], args["model"], args["set"]) == (["a", "b"], "d", "net", ["x=1", "y=2"])
    assert args["merges"] is None
    args = parse("run", "--prior", "r1", "r2", "--tri", "-3", "synthetic", "--obj", "cost", "--objective", "gain_mean")
    assert (args["prior"], args["trials"], args["target"]) == (["r1", "r2"], "-3", "synthetic")
    assert args["objective"] == ["cost", "gain_mean"]
    assert (args["smoke"], args["yes"], args["workers"]) == (None, False, None)


@pytest.mark.parametrize("argv", [("--server", "URL", "list"), ("list", "--server", "URL"),
                                  ("--server", "other", "list", "--server", "URL")])  # fmt: skip
def test_the_server_stands_before_or_after_the_command(argv: tuple[str, ...]) -> None:
    assert parse(*argv)["server"] == "URL"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["run", "synthetic", "--objective", "los"], "unknown objective 'los'; did you mean merged_loss or cost?"),
        (["dashboard", "x", "--html", "f"], "dashboard has no --html: use `sweeper export RUN --html FILE`"),
        (["run", "synthetic", "--trails", "3"], "unknown option '--trails'; did you mean --trials"),
        (["run", "synthetic", "--re", "3"], "option --re is ambiguous: --repeats or --resources or --resident-share"),
        (["run", "synthetic", "--seed", "--trials", "3"], "option --seed needs a value, N"),
        (["merge", "--models", "--base", "a"], "option --models needs a value, FILE|DIR..."),
        (["recommend", "x", "--momentum", "high"], "--momentum must be a number, got 'high'"),
        (["extend", "x", "--repeats", "0"], "--repeats must be a whole number >= 1, got '0'"),
        (["export", "x", "--table", "trial"], "unknown table 'trial'; did you mean trials?"),
        (["token", "creat"], "unknown command 'creat'; did you mean create?"),
        (["completion", "tcsh"], "unknown shell 'tcsh'; did you mean zsh"),
        ([], "missing command; see sweeper --help"),
    ],
)
def test_wrong_usage_is_one_line(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {message}")
    assert captured.err.count("\n") == 1


def test_shells_complete_commands_options_and_names() -> None:
    assert complete("re") == {"resume", "recommend"}
    assert {"--sampler", "--seed"} <= complete("run", "--se") | complete("run", "--sa")
    assert "digits_cnn" in complete("run", "digits")
    assert complete("run", "digits_cnn", "--sampler", "q") == {"qmc"}
    assert complete("run", "digits_cnn", "--runner", "") == {"ray", "inline"}
    assert "adam_sde" in complete("best", "run", "--noise", "adam")
    assert complete("completion", "f") == {"fish"}
    assert complete("token", "re") == {"revoke"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == ExitCode.DONE
    assert f"_SWEEPER_COMPLETE={shell}_complete" in capsys.readouterr().out


def test_the_script_asks_the_program(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    shell = {"_SWEEPER_COMPLETE": "bash_complete", "COMP_WORDS": "sweeper run dig", "COMP_CWORD": "2"}
    for name, value in shell.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        main([])
    assert "plain,digits_cnn" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (("import", "x.csv", "--out", "x"), "--space"),
        (("merge", "--base", "x.safetensors"), "--models"),
        (("token", "create", "bob"), "--role"),
    ],
)
def test_a_missing_required_option_is_one_line(
    command: tuple[str, ...], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: missing option '{option}'")
    assert error.count("\n") == 1
