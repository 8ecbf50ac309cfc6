"""The API's routes: statuses, headers, one sentence for everything that is wrong, and nothing half-created."""

import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sweeper.client.models import Quota, Role, State
from sweeper.errors import AwayError
from sweeper.service.api.results import negotiate
from sweeper.service.policy.limits import Limits
from tests.support.service_fakes import client_of, make_service

SPEC = {"space": "digits_cnn", "trials": 4}
YAML = {"Content-Type": "application/yaml"}


@pytest.fixture
def service(tmp_path):
    return make_service(tmp_path, webhooks=("https://hooks.lab/",))


@pytest.fixture
def client(service):
    return client_of(service)


def count(service):
    return len(service.catalog.page(limit=100))


def test_a_new_sweep_is_queued_at_the_location_of_the_answer(client, service):
    answer = client.post("/v1/sweeps", json=SPEC, params={"name": "tries", "priority": 3, "shared": True})
    assert answer.status_code == 202
    record = client.get(answer.headers["Location"]).json()
    assert (record["id"], record["state"], record["name"]) == (answer.json()["id"], "queued", "tries")
    assert (record["shared"], record["owner"]) == (True, "local")
    assert service.catalog.get(record["id"]).priority == 3
    assert record["spec"]["trials"] == 4
    assert "wake" in service.supervisor.calls


def test_a_dry_run_makes_nothing(client, service):
    answer = client.post("/v1/sweeps?dry_run=true", content="space: digits_cnn\ntrials: 6", headers=YAML)
    assert (answer.status_code, answer.json()["configurations"]) == (200, 6)
    assert count(service) == 0


def test_the_same_key_makes_one_sweep(client, service):
    first, again = (client.post("/v1/sweeps", json=SPEC, headers={"Idempotency-Key": "k"}) for _ in range(2))
    assert [a.json()["id"] for a in (first, again)] == [first.json()["id"]] * 2
    assert first.headers["Location"] == again.headers["Location"]
    assert first.status_code == again.status_code == 202
    other = client.post("/v1/sweeps", json={**SPEC, "trials": 5}, headers={"Idempotency-Key": "k"})
    assert other.status_code == 422
    assert "use a new key" in other.json()["detail"]
    assert count(service) == 1


@pytest.mark.parametrize(
    ("status", "sentence", "query", "body", "media"),
    [
        (400, "not JSON", "", b"{", "application/json"),
        (400, "UTF-8", "", b"\xff", "application/json"),
        (413, "at most 131072 bytes", "", b" " * 140_000, "application/json"),
        (413, "at most 1048576 bytes", "", b" " * 1_100_000, "application/json"),
        (415, "got 'text/plain'", "", b"{}", "text/plain"),
        (415, "got ''", "", b"{}", ""),
        (422, "space is missing", "", b"{}", "application/json"),
        (422, "sweep.yaml, line 2: trials", "", b"space: digits_cnn\ntrials: -1", "text/yaml"),
        (422, "priority: must be less than or equal to 100", "priority=101", b"{}", "application/json"),
        (422, "a webhook must be an https URL", "webhook=http://hooks.lab/x", b"{}", "application/json"),
        (403, "are not allowed", "webhook=https://hooks.lab.evil/x", b"{}", "application/json"),
        (403, "not Python code", "", b'{"space": "/tmp/x.py"}', "application/json"),
    ],
)
def test_a_wrong_request_has_its_status_and_one_sentence(client, service, status, sentence, query, body, media):
    answer = client.post(f"/v1/sweeps?{query}", content=body, headers={"Content-Type": media} if media else {})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert sentence in problem["detail"]
    assert "\n" not in problem["detail"]
    assert count(service) == 0


def test_a_body_without_a_length_is_bounded(client, service):
    parts = (b" " * 100_000 for _ in range(20))
    answer = client.post("/v1/sweeps", content=parts, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


def test_what_is_not_there(client):
    assert client.get("/v1/nothing").status_code == 404
    answer = client.put("/v1/sweeps")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, POST")
    assert client.get("/v1/sweeps/x-1").json()["detail"].startswith("there is no sweep 'x-1'")


def test_pages_of_the_list_follow_each_other(client, service):
    made = [service.add("local") for _ in range(5)]
    found, after = [], None
    while True:
        page = client.get("/v1/sweeps", params={"limit": 2} | ({"after": after} if after else {})).json()
        found += [s["id"] for s in page["items"]]
        after = page["next"]
        if after is None:
            break
    assert sorted(found) == sorted(made)
    assert len(set(found)) == 5
    for wrong in ("x", "bnVsbA", "WzEsMl0", "====", "W05hTiwgIngiXQ"):
        assert client.get("/v1/sweeps", params={"after": wrong}).status_code == 422


def test_the_list_is_filtered(client, service):
    done = service.add("anna", State.STARTING, State.DONE)
    service.add("ben", space="synthetic")
    for query, found in (("state=done", [done]), ("owner=anna", [done]), ("space=digits_cnn", [done]),
                         ("state=failed", [])):  # fmt: skip
        assert [s["id"] for s in client.get(f"/v1/sweeps?{query}").json()["items"]] == found
    assert client.get("/v1/sweeps?state=other").status_code == 422


def test_trials_as_json_arrow_and_parquet(client, service):
    path = f"/v1/sweeps/{service.add('local')}/trials"
    page = client.get(path, params={"limit": 2}).json()
    assert [t["digest"] for t in page["items"]] == ["a", "b"]
    assert page["items"][1]["device_seconds"] is None  # NaN
    assert (page["next"], page["more"]) == ("2", True)
    arrow = client.get(path, params={"after": 2}, headers={"Accept": "application/vnd.apache.arrow.stream"})
    assert (arrow.headers["Sweeper-Next"], arrow.headers["Sweeper-More"]) == ("3", "false")
    assert pa.ipc.open_stream(arrow.content).read_all()["digest"].to_pylist() == ["c"]
    parquet = client.get(path, headers={"Accept": "application/vnd.apache.parquet"})
    assert pq.read_table(io.BytesIO(parquet.content)).num_rows == 3
    assert client.get(path, headers={"Accept": "text/csv"}).status_code == 406


def test_trials_are_filtered(client, service):
    path = f"/v1/sweeps/{service.add('local')}/trials"
    query = {"where": "digest=a=b", "outcome": "ok", "columns": "digest,outcome,digest"}
    assert client.get(path, params=query).status_code == 200
    assert service.views.asked[-1] == (0, 100, {"digest": "a=b", "outcome": "ok"}, ("digest", "outcome"))
    for wrong in ({"where": "x"}, {"columns": "a b"}, {"where": ["digest=1", "digest=2"]}, {"columns": "nothing"}):
        assert client.get(path, params=wrong).status_code == 422


def test_a_model_folder_is_an_archive(client, service):
    path = f"/v1/sweeps/{service.add('local', State.STARTING, State.DONE)}/best/model"
    answer = client.get(path, params={"rank": 4, "name": "merged"})
    assert service.models.asked[-1] == ("merged", 4)
    assert answer.headers["content-type"] == "application/x-tar"
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.headers["sweeper-discarded"] == "0.125"
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        assert archive.getnames() == ["README.md"]
    assert "sweeper-discarded" not in client.get(path).headers
    assert service.models.asked[-1] == ("model", None)
    for wrong in ({"rank": 0}, {"rank": "x"}, {"name": "../x"}, {"name": ".x"}, {"name": "a/b"}):
        assert client.get(path, params=wrong).status_code == 422


@pytest.mark.parametrize(
    ("accept", "best"),
    [("", "a/json"), ("*/*", "a/json"), ("a/*;q=0.1, b/x", "b/x"), ("a/json;q=0", None), ("c/d", None),
     ("b/x;q=0.5, */*;q=0.1", "b/x"), ("a/json;q=x", None), ("A/JSON", "a/json")],
)  # fmt: skip
def test_the_preferred_type(accept, best):
    assert negotiate(accept, ("a/json", "b/x")) == best


def test_answers_that_are_not_there_yet(client, service):
    early, done = service.add("local"), service.add("local", State.STARTING, State.DONE)
    assert client.get(f"/v1/sweeps/{early}/recommendation").status_code == 409
    assert client.get(f"/v1/sweeps/{early}/settings").status_code == 409
    assert client.get(f"/v1/sweeps/{early}/best").status_code == 404
    assert client.get(f"/v1/sweeps/{early}/best/weights").status_code == 404
    advice = client.get(f"/v1/sweeps/{done}/recommendation?batch_size=256&batch_size=64&momentum=0.5").json()
    assert service.views.asked[-1] == ((), {"batch_sizes": [256, 64], "momentum": 0.5})
    assert advice[0]["recommendations"][0]["learning_rate"] is None  # infinite
    settings = client.get(f"/v1/sweeps/{done}/settings?batch_size=64&momentum=0.5&objective=gain_mean").json()
    assert service.views.asked[-1] == {"batch_sizes": [64], "momentum": 0.5, "objective": "gain_mean"}
    assert settings["settings"][0]["noise"] is None
    assert settings["formats"] == {"yaml": "space: s"}
    assert client.get(f"/v1/sweeps/{done}/best").json()["loss"] is None
    for wrong in ("objective=best", "batch_size=0", "momentum=1", "batch_size=2&learning_rate=0.1"):
        assert client.get(f"/v1/sweeps/{done}/recommendation?{wrong}").status_code == 422
    for wrong in ("batch_size=0", "momentum=1", "learning_rate=0", "objective=a-b"):
        assert client.get(f"/v1/sweeps/{done}/settings?{wrong}").status_code == 422


def test_steering(client, service):
    running = service.add("local", State.STARTING, State.RUNNING)
    assert client.post(f"/v1/sweeps/{running}/resume").status_code == 409
    assert client.post(f"/v1/sweeps/{running}/extend").status_code == 409
    assert client.post(f"/v1/sweeps/{running}/stop").json()["state"] == "stopping"
    assert client.post(f"/v1/sweeps/{running}/stop").status_code == 409
    assert client.post(f"/v1/sweeps/{running}/cancel").json()["state"] == "cancelled"
    resumed = client.post(f"/v1/sweeps/{running}/resume", json={"trials": 9})
    assert (resumed.status_code, service.supervisor.calls[-1][3]) == (202, {"trials": 9})
    assert client.post(f"/v1/sweeps/{running}/resume").status_code == 409
    done = service.add("local", State.STARTING, State.DONE)
    assert client.post(f"/v1/sweeps/{done}/resume", json={"out": "/x"}).status_code == 403
    assert client.post(f"/v1/sweeps/{done}/resume", content="{").status_code == 415
    assert client.post(f"/v1/sweeps/{done}/resume", json={"trials": 0}).status_code == 422
    assert client.post(f"/v1/sweeps/{done}/extend?dry_run=true").json()["dry_run"] is True
    assert client.post(f"/v1/sweeps/{done}/extend?repeats=2").status_code == 202
    assert client.post(f"/v1/sweeps/{done}/extend").status_code == 409
    assert service.catalog.get(done).state == State.QUEUED


def test_forgetting_needs_the_id_twice(client, service):
    done, waiting = service.add("local", State.STARTING, State.DONE), service.add("local")
    assert client.delete(f"/v1/sweeps/{done}").status_code == 422
    assert client.delete(f"/v1/sweeps/{done}?confirm=x").status_code == 422
    assert client.delete(f"/v1/sweeps/{waiting}?confirm={waiting}").status_code == 409
    assert client.delete(f"/v1/sweeps/{done}?confirm={done}").status_code == 204
    assert client.delete(f"/v1/sweeps/{done}?confirm={done}").status_code == 404


def test_quotas_refuse_and_say_when_they_free(tmp_path):
    service = make_service(tmp_path, auth=True)
    client = client_of(service)
    anna = service.token("anna", Role.SUBMITTER, Quota(trials=10))
    keyed = {**anna, "Idempotency-Key": "k"}
    assert client.post("/v1/sweeps", json={**SPEC, "trials": 8}, headers=keyed).status_code == 202
    answer = client.post("/v1/sweeps", json=SPEC, headers=anna)
    assert answer.status_code == 429
    assert "has used 0 of 10 trials in 30 days, has sweeps that may use 8 more and asks for 4 more: wait" in answer.text
    assert client.post("/v1/sweeps", json={**SPEC, "trials": 8}, headers=keyed).status_code == 202  # sent before
    assert "that exceeds the quota" in client.post("/v1/sweeps", json={**SPEC, "trials": 11}, headers=anna).text
    assert count(service) == 1
    assert client.get("/v1/me", headers=anna).json()["used"] == {
        "running": 0, "waiting": 1, "trials": 0, "gpu_hours": 0.0, "due_trials": 8, "due_gpu_hours": 0.0
    }  # fmt: skip
    done = service.add("anna", State.STARTING, State.DONE, trials=1)
    assert client.post(f"/v1/sweeps/{done}/resume", headers=anna).status_code == 429
    assert client.post(f"/v1/sweeps/{done}/resume", json={"trials": 30}, headers=anna).status_code == 429
    assert client.post(f"/v1/sweeps/{done}/extend", headers=anna).status_code == 429
    assert client.post("/v1/sweeps?priority=1", json=SPEC, headers=anna).status_code == 403


def test_gpu_hours_are_a_quota(tmp_path):
    service = make_service(tmp_path, auth=True)
    anna = service.token("anna", Role.SUBMITTER, Quota(gpu_hours=5))
    client = client_of(service)
    assert client.post("/v1/sweeps", json={**SPEC, "max_gpu_hours": 4}, headers=anna).status_code == 202
    answer = client.post("/v1/sweeps", json={**SPEC, "max_gpu_hours": 2}, headers=anna)
    assert answer.status_code == 429
    assert "used 0 of 5 GPU-hours in 30 days, has sweeps that may use 4 more and asks for 2 more" in answer.text


def test_sweeps_that_wait_are_a_quota(tmp_path):
    service = make_service(tmp_path, auth=True)
    client, anna = client_of(service), service.token("anna", Role.SUBMITTER, Quota(waiting=1))
    done = service.add("anna", State.STARTING, State.DONE)
    assert client.post("/v1/sweeps", json=SPEC, headers=anna).status_code == 202
    for path in ("", f"/{done}/resume", f"/{done}/extend"):
        answer = client.post(f"/v1/sweeps{path}", json=SPEC if not path else None, headers=anna)
        assert answer.status_code == 429
        assert "anna has 1 waiting sweeps and may have 1" in answer.text
    # on one's own machine nobody else waits behind them, and no token could allow more
    assert client_of(make_service(tmp_path / "open")).get("/v1/me").json()["quota"]["waiting"] is None


def test_earlier_sweeps_tell_how_long_it_takes(client, service):
    earlier = service.add("local", State.STARTING, State.DONE, spec={"space": "digits_cnn"})
    service.add("local", spec={"space": "digits_cnn", "smoke": True})
    found = client.post("/v1/sweeps?dry_run=true", json={**SPEC, "workers": 2}).json()
    assert (found["seconds_per_trial"], found["device_seconds"], found["wall_seconds"]) == (3.0, 12.0, 6.0)
    assert found["based_on"] == [earlier]


def test_an_estimate_asks_a_store_that_is_away_once(client, service, monkeypatch):
    for _ in range(3):
        service.add("local", State.STARTING, State.DONE)
    looks = []

    def away(entry, *_):
        looks.append(entry.id)
        raise AwayError("cannot reach s3://runs/a: timeout")

    monkeypatch.setattr(service.views, "trials", away)
    answer = client.post("/v1/sweeps?dry_run=true", json=SPEC)
    assert (answer.status_code, answer.json()["based_on"], len(looks)) == (200, [], 1)


def test_what_changes_something_is_written_down(tmp_path):
    service = make_service(tmp_path, auth=True)
    client, admin = client_of(service), service.token("root", Role.ADMIN)
    viewer = service.token("vera", Role.VIEWER)
    sweep = client.post("/v1/sweeps", json=SPEC, headers=admin).json()["id"]
    client.post(f"/v1/sweeps/{sweep}/cancel", headers=viewer)
    client.post(f"/v1/sweeps/{sweep}/cancel", headers=admin)
    client.get("/v1/sweeps", headers=admin)
    client.post("/v1/sweeps", json=SPEC)
    page = client.get("/v1/audit?limit=2", headers=admin).json()
    assert [(e["user"], e["action"], e["target"], e["status"]) for e in page["items"]] == [
        ("root", "cancel_sweep", sweep, 202), ("vera", "cancel_sweep", sweep, 404),
    ]  # fmt: skip
    rest = client.get(f"/v1/audit?after={page['next']}", headers=admin).json()
    assert [(e["action"], e["target"]) for e in rest["items"]] == [("submit_sweep", sweep)]
    assert rest["next"] is None


def test_metrics_count_requests_and_sweeps(client, service):
    service.add("local", State.STARTING, State.RUNNING)
    client.get("/v1/sweeps/x")
    client.get("/v1/sweeps/y")
    text = client.get("/metrics").text
    assert 'sweeper_requests_total{method="GET",route="/v1/sweeps/{sweep}",status="404"} 2.0' in text
    assert 'sweeper_sweeps{state="running"} 1.0' in text
    assert "sweeper_processes 1.0" in text
    assert "sweeper_queue_length 0.0" in text


def test_an_internal_error_is_a_problem_too(client, service, monkeypatch):
    sweep = service.add("local")
    monkeypatch.setattr(service.views, "best", lambda _: 1 / 0)
    answer = client.get(f"/v1/sweeps/{sweep}/best")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"] == "internal error: ZeroDivisionError; see the server's log"


def test_names_are_the_command_lines(client, capsys):
    from sweeper.cli.main import main

    for name in ("spaces", "noises", "merges"):
        main([name, "--json"])
        theirs = json.loads(capsys.readouterr().out)["items"]
        assert client.get(f"/v1/{name}").json() == theirs


def test_the_documentation_has_an_example_of_every_answer(client):
    for path, routes in client.app.openapi()["paths"].items():
        for method, route in routes.items():
            assert route["summary"], path
            assert route["description"], path
            for status, response in route["responses"].items():
                kinds = response.get("content", {})
                assert status == "204" or kinds, (method, path, status)


def test_a_rate_is_held(tmp_path):
    service = make_service(tmp_path)
    client = client_of(service, Limits(rate=0.5, burst=2))
    assert [client.get("/v1/me").status_code for _ in range(3)] == [200, 200, 429]
    answer = client.get("/v1/me")
    assert int(answer.headers["Retry-After"]) >= 1
    assert client.get("/healthz").status_code == 200
