"""Reading a sweep executes no space file: not by a command, a page, the live app or a view of the service."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import sweeper
from search_spaces._plain import from_json, to_json
from sweeper.analysis.posterior import fit_posterior
from sweeper.cli.main import main
from sweeper.config.space import load_space
from sweeper.config.spec import SweepSpec
from sweeper.storage.run_folder import stored_spec
from sweeper.storage.space_data import SPACE_FILE, known_space
from sweeper.storage.tables import read_trials

SPACE = """\
from pathlib import Path
from search_spaces import load
with Path({marker!r}).open("a") as file:
    file.write("executed\\n")
{more}
SPACE = load("synthetic").override({{}}, {{"weight_decay": 0.0}})
"""


class Swept:
    """A finished sweep of a space file; `executed` counts how often any text of the file was executed."""

    def __init__(self, folder: Path, **more: Any) -> None:
        self.marker, self.file, self.run = folder / "marker", folder / "mine.py", folder / "run"
        self.file.write_text(SPACE.format(marker=str(self.marker), more=""))
        asked = {"space": str(self.file), "runner": "inline", "sampler": "random", "trials": 12, **more}
        self.spec = SweepSpec.checked({**asked, "out": str(self.run)})
        sweeper.run(self.spec)
        # a process executes one text once: another text shows that a file is executed again
        self.changed = SPACE.format(marker=str(self.marker), more="raise RuntimeError('a reader executed me')")
        for copy in (self.file, self.run / "mine.py"):
            copy.write_text(self.changed)
        self.before = self.executed

    @property
    def executed(self) -> int:
        return len(self.marker.read_text().splitlines())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    return Swept(tmp_path_factory.mktemp("reading"))


@pytest.fixture
def swept(made: Swept) -> Iterator[Swept]:
    yield made
    assert made.executed == made.before


COMMANDS = {
    "status": "status RUN",
    "status of another noise": "status RUN --noise critical_ratio --json",
    "list": "list RUN",
    "best": "best RUN --json",
    "recommend": "recommend RUN",
    "analyse": "analyse RUN",
    "compare": "compare RUN COPY",
    "export": "export RUN --out TABLE",
    "page": "export RUN --html PAGE",
    "compact": "compact RUN",
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_no_reader_executes_the_space_file(
    swept: Swept, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    places = {"RUN": swept.run, "TABLE": tmp_path / "table.csv", "PAGE": tmp_path / "page.html", "COPY": tmp_path / "c"}
    shutil.copytree(swept.run, tmp_path / "c")
    assert main([str(places.get(word, word)) for word in command.split()]) == 0
    out, err = capsys.readouterr()
    assert "a reader executed me" not in out + err
    if command == "status RUN":
        assert "the search's model of 12 trials of 12 configurations: " in out
    if command == "best RUN --json":
        assert json.loads(out)["best"]["posterior_mean"] is not None


def test_the_live_app_executes_nothing(swept: Swept) -> None:
    from dashboards.app.callbacks import App
    from dashboards.data.folders import Live, open_folders
    from dashboards.views import VIEWS

    app = App(Live(open_folders([str(swept.run)])))
    for tab in VIEWS:
        parts, _, _ = app.draw(f"?tab={tab}", "light", {}, app.version(f"?tab={tab}"))
        assert "a reader executed me" not in str(parts)
    run = app.read_run("")
    assert run is not None
    found = fit_posterior(run.spec, run.tables["trials"]) if run.spec else None
    assert found is not None
    assert found.favourite is not None
    assert app.export_csv("") is not None


def test_the_views_of_the_service_execute_nothing(swept: Swept, tmp_path: Path) -> None:
    from sweeper.client.models import State
    from sweeper.service.db.sweeps import Catalog, NewSweep
    from sweeper.service.db.tables import open_database
    from sweeper.service.scheduler.supervisor import Supervisor
    from sweeper.service.views.events import Hub
    from sweeper.service.views.views import Views

    engine = open_database(f"sqlite:///{tmp_path}/service.db")
    catalog = Catalog(engine)
    views = Views(catalog, Hub(), lambda _: str(swept.run))
    entry, _ = catalog.add(NewSweep("ann", "mine", swept.spec.model_copy(update={"out": None}).dump_explicit(), 12, 12))
    for state in (State.STARTING, State.RUNNING, State.DONE):
        entry = catalog.move(entry.id, state, "test")
    assert views.conclude(entry).best is not None
    best = views.best(entry)
    assert best is not None
    assert best["posterior_mean"] is not None
    assert views.advice(entry)
    assert b"<html" in b"".join(views.report(entry, "http://here"))
    assert views.detail(entry).progress.budget == 12
    assert views.trials(entry)[0].num_rows == 12
    assert views.plan(entry, {"repeats": 2}).trials > 0
    quota: Any = SimpleNamespace(gpu_hours=None, running=None)
    supervisor = Supervisor(catalog, views, tmp_path / "state", lambda: "", lambda _: quota, 1)
    assert supervisor.resume(entry.id, "ann", {"trials": 20}, 20).due == 8
    engine.dispose()


def test_the_stored_space_is_the_one_that_was_searched(swept: Swept) -> None:
    known = known_space(stored_spec(swept.run))
    assert known.assumed == ""
    built_in = load_space(SweepSpec.checked({"space": "synthetic", "fixed": {"weight_decay": 0.0}}))
    assert dict(known.space.knobs) == dict(built_in.knobs)
    assert known.space.name == "mine"
    row = read_trials(swept.run).to_pylist()[0]
    spec = json.loads(row["spec"])
    params = {name: spec[name] for name in known.space.knobs}
    assert known.space.build(params, seed=0, repeat=spec["repeat"]).digest == row["digest"]


@pytest.mark.parametrize("change", [lambda text: "{", lambda text: text.replace('"version": 1', '"version": 2')])
def test_a_stored_space_that_cannot_be_read_is_one_sentence(
    swept: Swept, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[str], str]
) -> None:
    run = Path(shutil.copytree(swept.run, tmp_path / "run"))
    (run / SPACE_FILE).write_text(change((run / SPACE_FILE).read_text()))
    assert main(["status", str(run)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"the number of configurations is unknown: cannot read {run}/{SPACE_FILE}: it " in out


def test_a_folder_of_an_earlier_version_is_read_and_says_what_is_assumed(
    swept: Swept, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(swept.run, tmp_path / "run"))
    (run / SPACE_FILE).unlink()
    assert main(["status", str(run), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["progress"]["budget"] == 12
    assert said["belief"]["assumed"].startswith("an earlier version wrote this folder without the ranges of ")
    known, exact = known_space(stored_spec(run)).space, known_space(stored_spec(swept.run)).space
    assert list(known.knobs) == list(exact.knobs)
    assert [type(d) for d in known.knobs.values()] == [type(d) for d in exact.knobs.values()]
    spec = json.loads(read_trials(run).to_pylist()[0]["spec"])
    params = {name: spec[name] for name in exact.knobs}
    assert known.build(params) == exact.build(params)
    assert main(["best", str(run)]) == 0
    assert "sweeper resume` stores them" in " ".join(capsys.readouterr().out.split())


def test_a_folder_that_tells_too_little_says_so(swept: Swept, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text("space: mine.py\ntrials: 4\n")
    with pytest.raises(sweeper.SpecError, match="too few trials to determine its search space"):
        known_space(stored_spec(tmp_path))


def test_a_resume_stores_the_space_of_the_file_as_it_is_now(tmp_path: Path) -> None:
    swept = Swept(tmp_path)
    (swept.run / SPACE_FILE).unlink()
    changed = SPACE.format(marker=str(swept.marker), more="# edited").replace("0.0}", "0.01}")
    (swept.run / "mine.py").write_text(changed)
    assert main(["resume", str(swept.run), "--trials", "13"]) == 0
    assert known_space(stored_spec(swept.run)).space.fixed["weight_decay"] == 0.01
    assert swept.executed == swept.before + 1


def test_every_built_in_space_comes_back_from_its_data() -> None:
    import search_spaces

    for name in search_spaces.names():
        space = search_spaces.load(name)
        again = from_json(to_json(space))
        assert again == space
        assert again.name == name
        if space.smoke:
            assert again.small() == space.small()
