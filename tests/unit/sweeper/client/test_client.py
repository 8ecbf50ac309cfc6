"""Pages, weights and what is asked of a sweep."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeper.client import Client, ClientError
from sweeper.client.archive import pack_folder
from sweeper.client.connection import check_room
from sweeper.client.models import State
from sweeper.errors import SpecError
from tests.support.fake_service import DROP, FakeService, sweep
from tests.support.service_answers import refused
from tests.support.trial_rows import trial

FIRST = "/v1/sweeps/synthetic-1"
pytestmark = pytest.mark.usefixtures("quick_client")


@pytest.fixture
def client(service: FakeService) -> Iterator[Client]:
    with Client(service.url) as found:
        yield found


def test_sweeps_run_over_pages(service: FakeService, client: Client) -> None:
    service.sweeps = {f"s-{i}": sweep(f"s-{i}") for i in range(5)}
    assert [s.id for s in client.sweeps(state="queued", owner="ada")] == list(service.sweeps)
    assert [query.get("after") for query, *_ in service.asked("GET", "/v1/sweeps")] == [None, ["s-1"], ["s-3"]]
    assert service.seen[0][2]["owner"] == ["ada"]


def test_trials_that_land_between_pages_are_there_once(service: FakeService, client: Client) -> None:
    service.sweeps["synthetic-1"] = sweep(state="running")
    service.rows = [trial(f"c{i}", 0.1 * i, number=i) for i in range(3)]
    later = [trial("c3", 0.3, number=3), trial("c1", 0.7, number=1)]  # the last one was run again
    service.on_page = lambda: service.rows.extend(later) or later.clear()
    found = client.trials("synthetic-1")
    assert found["config"].to_pylist() == ["c0", "c2", "c3", "c1"]
    assert found["gain_mean_loss_val"].to_pylist()[-1] == 0.7
    assert client.trials("synthetic-1", columns=["number"]).column_names == ["number"]
    client.trials("synthetic-1", where={"momentum": 0.9}, outcome="ok")
    assert service.seen[-1][2]["where"] == ["momentum=0.9"]


def test_a_table_without_trials_has_its_columns(service: FakeService, client: Client) -> None:
    service.sweeps["synthetic-1"] = sweep()
    found = client.trials("synthetic-1")
    assert found.num_rows == 0
    assert "merged_loss_val" in found.column_names


def test_trials_are_handed_on_as_they_land_until_the_end(service: FakeService, client: Client) -> None:
    service.sweeps["synthetic-1"] = sweep(state="running")
    seen: list[str] = []

    def land() -> None:
        if len(service.rows) < 5:
            service.rows.append(trial(f"c{len(service.rows)}", 0.1))
        else:
            service.sweeps["synthetic-1"]["state"] = "done"

    service.on_page = land
    for row in client.iter_trials("synthetic-1"):
        seen.append(row["config"])
    assert seen == [f"c{i}" for i in range(5)]
    service.on_page = lambda: None
    service.sweeps["synthetic-1"]["state"] = "running"
    assert len(list(client.iter_trials("synthetic-1", follow=False))) == 5


def test_weights_are_there_whole_or_not_at_all(service: FakeService, client: Client, tmp_path: Path) -> None:
    service.sweeps["synthetic-1"] = sweep(state="done")
    path, weights = f"{FIRST}/best/weights", b"w" * 3_000_000
    service.answers["GET", path] = 200, "application/octet-stream", weights
    service.fault("GET", path, DROP)
    assert client.download_weights("synthetic-1", tmp_path / "w").read_bytes() == weights
    service.fault("GET", path, (404, {}, "the weights were not kept"))
    with pytest.raises(ClientError, match="the weights were not kept"):
        client.download_weights("synthetic-1", tmp_path / "none")
    with pytest.raises(SpecError, match=r"cannot write .*: No such file or directory"):
        client.download_weights("synthetic-1", tmp_path / "no" / "w")
    assert [p.name for p in tmp_path.iterdir()] == ["w"]


def test_a_model_folder_is_there_whole_or_not_at_all(service: FakeService, client: Client, tmp_path: Path) -> None:
    service.sweeps["synthetic-1"] = sweep(state="done")
    path, folder = f"{FIRST}/best/model", tmp_path / "theirs"
    folder.mkdir()
    (folder / "README.md").write_text("card")
    content = io.BytesIO()
    pack_folder(folder, content)
    service.answers["GET", path] = 200, "application/x-tar", content.getvalue(), {"Sweeper-Discarded": "0.25"}
    service.fault("GET", path, DROP)
    assert client.save_model("synthetic-1", tmp_path / "ours", rank=4) == 0.25
    assert (tmp_path / "ours" / "README.md").read_text() == "card"
    assert service.asked("GET", path)[-1][0] == {"rank": ["4"], "name": ["ours"]}
    asked = len(service.seen)
    with pytest.raises(SpecError, match="ours exists; choose another folder"):
        client.save_model("synthetic-1", tmp_path / "ours")
    assert len(service.seen) == asked  # before the service writes a model
    service.answers["GET", path] = 200, "application/x-tar", content.getvalue()[:100], {}
    with pytest.raises(SpecError, match="damaged archive"):
        client.save_model("synthetic-1", tmp_path / "none")
    service.answers["GET", path] = refused(409, "it has no folder")
    with pytest.raises(ClientError, match="it has no folder"):
        client.save_model("synthetic-1", tmp_path / "none")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ours", "theirs"]


def test_a_download_needs_room(tmp_path: Path) -> None:
    check_room(tmp_path / "w", "1000")
    check_room(tmp_path / "w", "")
    with pytest.raises(SpecError, match=r"needs 1000000000\.0 GB, but .* GB are free"):
        check_room(tmp_path / "w", str(10**18))


def test_requests_about_a_sweep(service: FakeService, client: Client) -> None:
    service.sweeps["synthetic-1"] = sweep(state="done")
    advice = [{"objective": "gain_mean", "message": "m", "recommendations": [{"batch_size": 8}], "text": "t"}]
    service.answers["GET", f"{FIRST}/recommendation"] = 200, "application/json", json.dumps(advice).encode()
    (found,) = client.recommend("synthetic-1", batch_sizes=[8, 16], momentum=0.9)
    assert found.recommendations[0]["batch_size"] == 8
    assert service.seen[-1][2] == {"batch_size": ["8", "16"], "momentum": ["0.9"]}
    service.answers["GET", f"{FIRST}/report"] = 200, "text/html", "<p>η".encode()
    assert client.report("synthetic-1") == "<p>η"
    assert client.extend("synthetic-1", dry_run=True, noises=2).trials == 3
    assert service.seen[-1][2] == {"dry_run": ["true"], "noises": ["2"]}
    assert client.resume("synthetic-1", trials=9).state == State.QUEUED
    assert json.loads(service.seen[-1][4]) == {"trials": 9}
    client.resume("synthetic-1")
    assert service.seen[-1][4] == b""
    for name, ask in (("spaces", client.spaces), ("noises", client.noises), ("merges", client.merges)):
        service.answers["GET", f"/v1/{name}"] = 200, "application/json", b'[{"name": "a"}]'
        assert ask() == [{"name": "a"}]
