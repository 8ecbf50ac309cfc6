"""What lands reaches who looks, whatever the database does meanwhile."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from sweeper.client.models import State
from sweeper.errors import AwayError
from sweeper.service.db.sweeps import Catalog, Entry, NewSweep
from sweeper.service.views.events import Hub
from sweeper.service.views.views import Views
from sweeper.storage.location import place_of
from sweeper.storage.tables import write_table
from tests.support.databases import opened
from tests.support.trial_rows import table, trial


@pytest.fixture
def views(tmp_path: Path) -> Views:
    return Views(Catalog(opened(tmp_path)), Hub(), lambda sweep: str(tmp_path / sweep))


def running(views: Views, trials: int) -> Entry:
    spec = {"space": "synthetic", "sampler": "random", "trials": 9}
    sweep = views.catalog.add(NewSweep("ann", "synthetic", spec, 9, 9))[0].id
    for i in range(trials):
        write_table(place_of(views.run_of(sweep)), "trials", f"c{i}-0", table([trial(f"c{i}", 0.1, number=i)]))
    return views.catalog.move(sweep, State.STARTING, "")


def test_a_look_that_could_not_be_written_down_is_made_up_for(views: Views) -> None:
    broken, other = running(views, 3), running(views, 1)
    away = True

    def fail(_c: object, _k: object, statement: str, given: object, *_: object) -> None:
        if away and statement.startswith("INSERT INTO landed") and broken.id in str(given):
            raise OperationalError("insert", {}, Exception("the disk is full"))

    event.listen(views.catalog.engine, "before_cursor_execute", fail)
    views.follow([broken, other])
    assert views.reader(other, 60.0).snapshot.progress.trials == 1
    with pytest.raises(OperationalError):
        views.reader(broken, 60.0)
    assert not views.hub.since(0, broken.id)
    away = False
    views.follow([broken, other])
    assert views.reader(broken, 60.0).snapshot.progress.trials == 3
    told = [e.data["landed"] for e in views.hub.since(0, broken.id) if e.type == "trial"]
    assert told == [1, 2, 3]
    assert views.catalog.used("ann", 0.0)[0] == 4


def test_a_sweep_that_is_forgotten_meanwhile_stops_no_other(views: Views) -> None:
    gone, other = running(views, 1), running(views, 1)
    views.reader(gone, 60.0)
    views.catalog.move(gone.id, State.DONE, "")
    write_table(place_of(views.run_of(gone.id)), "trials", "c9-0", table([trial("c9", 0.1)]))
    views.catalog.remove(gone.id)
    views.follow([gone, other])
    assert views.reader(other, 60.0).snapshot.progress.trials == 1


def test_a_row_that_nobody_can_judge_hides_no_other_sweep(views: Views, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong, other = running(views, 1), running(views, 1)
    monkeypatch.setattr(views.reader(wrong, 60.0), "analyse", lambda: 1 / 0)
    views.follow([wrong, other])
    assert "trial" in [e.type for e in views.hub.since(0, other.id)]


def test_a_sweep_that_is_resumed_is_read_by_its_new_spec(views: Views) -> None:
    before = running(views, 1)
    views.reader(before, 0.0)
    views.catalog.change(before.id, spec={**before.spec, "trials": 20}, budget=20)
    after = views.catalog.get(before.id)
    assert views.reader(after, 0.0).snapshot.progress.budget == 20
    views.reader(before, 0.0)  # by one who had looked the sweep up before
    assert views.reader(after, 60.0).snapshot.progress.budget == 20
    assert views.reader(after, 60.0) is views.reader(views.catalog.get(before.id), 60.0)


def test_lists_leave_stores_to_the_thread_that_follows(views: Views, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = running(views, 1)
    assert views.sweep(entry).progress.trials == 1  # a folder of this machine is looked at
    kept = views._readers[entry.id]
    monkeypatch.setattr(kept, "read_at", -math.inf)
    monkeypatch.setattr(kept.reader, "place", SimpleNamespace(local=None))
    looks = list[str]()

    def away() -> None:
        looks.append(entry.id)
        raise AwayError("cannot reach s3://runs/a: timeout")

    monkeypatch.setattr(kept.reader, "refresh", away)
    assert views.sweep(entry).progress.trials == 1
    assert not looks
