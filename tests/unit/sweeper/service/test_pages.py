"""The service's pages: who sees which sweeps, and how one signs in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.support.pages_service import REGIME, Made

pytest.importorskip("dash")
from collections.abc import Iterator

import pytest

from dashboards.views.verdicts import use_judges
from sweeper.client.models import State
from sweeper.service.pages import OLD_COOKIE
from tests.support.fake_sweep import write_sweep
from tests.support.page_reader import Reader, named

RUNNING = (State.STARTING, State.RUNNING)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    yield Made(tmp_path)
    use_judges(None)  # the app has verdicts computed in a thread, and this process runs other tests


@pytest.fixture
def sweeps(made: Made) -> dict[str, str]:
    ids = {
        "own": made.add("bob", "bob's own", *RUNNING, State.DONE),
        "shared": made.add("ann", "for all", *RUNNING, shared=True),
        "secret": made.add("ann", "hidden one", *RUNNING, State.FAILED, why="the disk is full"),
    }
    for sweep in ids.values():
        write_sweep(made.root / sweep, trials=3, budget=20)
    made.regimes[ids["own"]] = REGIME
    return ids


def test_each_user_lists_own_and_shared_sweeps_and_an_admin_all(made: Made, sweeps: dict[str, str]) -> None:
    bob, ann, eve = (Reader(made, n).drawn("") for n in ("bob", "ann", "eve"))
    assert all(sweeps[k] in bob for k in ("own", "shared"))
    assert all(sweeps[k] in ann for k in ("shared", "secret"))
    assert all(v in eve for v in sweeps.values())
    assert "hidden one" not in bob
    assert sweeps["own"] not in ann
    for words in ("3 of 20", "0.0103", "0.0071 to 0.0149", "pill done", "pill running", "ann \\u00b7 shared"):
        assert words in bob
    assert "the disk is full" in ann
    assert "0.0512" in bob


def test_no_callback_reads_a_sweep_that_the_asker_may_not_see(made: Made, sweeps: dict[str, str]) -> None:
    bob, secret = Reader(made, "bob"), sweeps["secret"]
    digest = next((made.root / secret / "trials").iterdir()).stem
    for query in (f"?run={secret}", f"?run={secret}&tab=trials", f"?run={secret}&trial={digest}&tab=trials"):
        drawn = bob.drawn(query)
        assert f"There is no sweep '{secret}'" in drawn
        assert "hidden one" not in drawn
        assert "3 of 20" in drawn  # the list, with bob's own
        assert '"rowCount"' not in bob.rows(query)
        assert digest not in bob.details(query)
        refused = bob.client.get(f"/trials.csv{query}")
        assert (refused.status_code, digest in refused.text) == (404, False)
    both = f"?run={sweeps['own']},{secret}&tab=trials"
    assert f"There is no sweep '{secret}'" in bob.drawn(both)
    assert "fake_space \\u00b7 bob's own" in bob.drawn(both)
    assert len(bob.client.get(f"/trials.csv{both}").text.splitlines()) == 4
    assert '"rowCount":3' in bob.rows(f"?run={sweeps['own']}&tab=trials")
    assert '"rowCount":3' in Reader(made, "eve").rows(f"?run={secret}&tab=trials")
    # what one user opened stays closed to the others
    assert f"There is no sweep '{secret}'" in bob.drawn(f"?run={secret}")


def test_a_sweep_that_is_no_longer_shared_is_gone_at_once(made: Made, sweeps: dict[str, str]) -> None:
    bob, shared = Reader(made, "bob"), sweeps["shared"]
    assert bob.client.get(f"/trials.csv?run={shared}").status_code == 200
    made.catalog.change(shared, shared=False)
    assert bob.client.get(f"/trials.csv?run={shared}").status_code == 404
    assert shared not in Reader(made, "bob").drawn("")


def test_the_address_filters_and_pages_the_list(made: Made, sweeps: dict[str, str], monkeypatch: Any) -> None:
    from dashboards.app import sweep_list

    eve = Reader(made, "eve")
    assert "hidden one" not in eve.drawn("?state=open")
    assert "for all" in eve.drawn("?state=open")
    assert "for all" not in eve.drawn("?state=ended")
    assert "bob's own" not in eve.drawn("?owner=ann")
    assert "No sweep matches this filter" in eve.drawn("?state=queued")
    assert "There is no state 'asleep'" in eve.drawn("?state=asleep")
    monkeypatch.setattr(sweep_list, "SHOWN", 2)
    first = eve.drawn("")
    assert "bob's own" not in first
    assert f"before={sweeps['shared']}" in first
    assert "bob's own" in eve.drawn(f"?before={sweeps['shared']}")


def test_an_empty_list_says_how_to_send_the_first_sweep(made: Made) -> None:
    drawn = Reader(made, "bob").drawn("")
    assert "No sweeps yet" in drawn
    assert "sweeper --server http://localhost run digits_cnn" in drawn


def test_a_sweep_that_waits_says_its_place_and_not_an_error(made: Made) -> None:
    made.add("bob", "first")
    waiting = made.add("bob", "second")
    drawn = Reader(made, "bob").drawn(f"?run={waiting}")
    assert "This sweep waits in the queue at place 2" in drawn
    assert "there is no folder" not in drawn
    assert "all sweeps" in drawn


def test_the_version_changes_with_state_and_trials(tmp_path: Path) -> None:
    made = Made(tmp_path, auth=False)
    sweep = made.add("local", "one")
    version = Reader(made).version
    seen = {version(""), version(f"?run={sweep}")}
    assert len(seen) == 2
    made.catalog.move(sweep, State.STARTING, "a place is free")
    seen |= {version(""), version(f"?run={sweep}")}
    assert len(seen) == 4
    write_sweep(made.root / sweep, trials=1)
    seen |= {version(""), version(f"?run={sweep}")}
    assert len(seen) == 6
    assert version("") in seen


def test_who_has_not_signed_in_is_sent_to_the_form_and_back(made: Made, sweeps: dict[str, str]) -> None:
    nobody = Reader(made).client
    sent = nobody.get(f"/?run={sweeps['own']}&tab=trials")
    assert (sent.status_code, sent.headers["location"]) == (303, f"/login?next=run%3D{sweeps['own']}%26tab%3Dtrials")
    for path in ("/trials.csv", "/_dash-layout", "/_dash-dependencies", "/assets/app.js"):
        assert nobody.get(path).status_code == 401
    assert nobody.post("/_dash-update-component", json={}).status_code == 401
    form = nobody.get(sent.headers["location"])
    assert form.status_code == 200
    assert f'value="run={sweeps["own"]}&amp;tab=trials"' in form.text
    wrong = nobody.post("/login", data={"token": "no", "next": '"><script>'})
    assert (wrong.status_code, "set-cookie" in wrong.headers) == (403, False)
    assert "This token is unknown" in wrong.text
    assert "<script>" not in wrong.text
    right = nobody.post("/login", data={"token": made.tokens["bob"], "next": f"run={sweeps['own']}&tab=trials"})
    assert (right.status_code, right.headers["location"]) == (303, f"/?run={sweeps['own']}&tab=trials")
    cookie = right.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "secure" not in cookie
    secret = made.tokens["bob"].split("_", 2)[2]  # the secret itself may contain underscores
    assert secret.lower() not in cookie
    session = nobody.cookies[made.users.cookie]
    assert nobody.get("/").status_code == 200
    assert "bob" in nobody.get("/_dash-layout").text
    assert nobody.get("/login?next=run%3Dx").headers["location"] == "/?run=x"
    gone = nobody.post("/logout")
    assert (gone.status_code, gone.headers["location"]) == (303, "/login")
    assert nobody.get("/").status_code == 303
    nobody.cookies.set(made.users.cookie, session)  # who kept it has nothing
    assert nobody.get("/").status_code == 303


def test_a_sign_in_of_an_earlier_version_has_ended(made: Made) -> None:
    client = Reader(made).client
    client.cookies.set(OLD_COOKIE, made.tokens["bob"], domain="localhost.local", path="/")
    assert client.get("/").headers["location"] == "/login"
    form = client.get("/login")
    assert "sign in again" in form.text
    assert OLD_COOKIE not in client.cookies  # the browser no longer keeps the token
    assert client.post("/login", data={"token": made.tokens["bob"]}).status_code == 303
    assert client.get("/").status_code == 200


def test_two_services_of_one_host_keep_their_sessions(tmp_path: Path) -> None:
    services = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        services.append(Made(tmp_path / name))
    readers = [Reader(made, "bob").client for made in services]
    jar = {name: value for reader in readers for name, value in reader.cookies.items()}
    for made in services:  # as a browser, which sends the cookies of a host to each of its ports
        both = TestClient(made.api, base_url="http://localhost", follow_redirects=False, cookies=jar)
        assert both.get("/").status_code == 200
        assert both.post("/logout").status_code == 303
    use_judges(None)


def test_over_https_the_cookie_is_secure(made: Made) -> None:
    client = TestClient(made.api, base_url="https://localhost", follow_redirects=False)
    assert "secure" in client.post("/login", data={"token": made.tokens["bob"]}).headers["set-cookie"].lower()


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example", "\r\nSet-Cookie: a=b"])
def test_signing_in_leads_nowhere_else(made: Made, target: str) -> None:
    answer = Reader(made).client.post("/login", data={"token": made.tokens["bob"], "next": target})
    assert answer.headers["location"].startswith("/?")
    assert "\n" not in answer.headers["location"]


def test_forms_of_other_sites_and_large_ones_are_refused(made: Made) -> None:
    bob = Reader(made, "bob").client
    foreign = {"origin": "https://evil.example"}
    assert bob.post("/login", data={"token": made.tokens["bob"]}, headers=foreign).status_code == 403
    assert bob.post("/logout", headers=foreign).status_code == 403
    assert bob.post("/logout", headers={"origin": "http://localhost"}).status_code == 303
    assert bob.post("/login", data={"token": "x" * 5000}).status_code == 413


def test_a_link_from_elsewhere_asks_again_as_its_own_page(made: Made) -> None:
    answer = Reader(made).client.get("/?run=a", headers={"sec-fetch-site": "cross-site"})
    assert answer.status_code == 200
    assert 'http-equiv="refresh"' in answer.text


VERSION = {
    "output": "version.data",
    "outputs": named("version.data"),
    "inputs": [named("tick.n_intervals", 1), named("beat.data", 1)],
    "state": [named("search.data", ""), named("version.data", "")],
    "changedPropIds": ["tick.n_intervals"],
}


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"\xff", b"[" * 50_000, b"null", b"[]", b'"x"', b"{}",
        *(json.dumps(VERSION | wrong).encode() for wrong in (
            {"output": 1}, {"output": "no.data"}, {"output": "asked.data"}, {"outputs": []}, {"outputs": {"id": "x"}},
            {"outputs": named("grid.data")}, {"inputs": None}, {"inputs": []}, {"inputs": [{"id": "tick"}, 5]},
            {"inputs": VERSION["inputs"][::-1]}, {"state": []}, {"changedPropIds": [[]]},
            {"state": [named("search.data", 5), named("version.data", "")]},
        )),
    ],
)  # fmt: skip
def test_calls_that_the_page_never_makes_are_refused(made: Made, caplog: Any, body: bytes) -> None:
    call, headers = "/_dash-update-component", {"content-type": "application/json"}
    bob = Reader(made, "bob").client
    assert bob.post(call, json=VERSION).status_code == 200
    answer = bob.post(call, content=body, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    problem = answer.json()
    assert (problem["status"], problem["instance"]) == (400, call)
    assert len(problem["detail"]) < 300
    assert not caplog.records


def test_other_requests_that_dash_cannot_take_are_problems(made: Made, caplog: Any) -> None:
    bob = Reader(made, "bob").client
    call = "/_dash-update-component"
    wanted = [
        ("POST", call, 415), ("PUT", call, 405), ("POST", "/_dash-layout", 405), ("GET", "/assets/none.js", 404),
        ("GET", "/_dash-component-suites/none/x.js", 404), ("GET", "/_dash-component-suites/dash/none.js", 404),
    ]  # fmt: skip
    for method, path, status in wanted:
        answer = bob.request(method, path, content=b"x")
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
        assert ("Allow" in answer.headers) is (status == 405)
    assert not caplog.records


def test_rows_and_filters_that_no_grid_asks_for_do_no_harm(made: Made, sweeps: dict[str, str]) -> None:
    bob, shown = Reader(made, "bob"), f"?run={sweeps['own']}&tab=trials"
    outputs = [named("grid.getRowsResponse"), named("count.children")]
    output = "..grid.getRowsResponse...count.children.."
    for request, status in (
        ({"startRow": -1}, 400), ({"endRow": 2**70}, 400), ({"sortModel": [1]}, 400), (5, 400),
        ({"startRow": 5, "endRow": 1}, 200), ({"filterModel": {"batch_size": {"conditions": []}}}, 200),
    ):  # fmt: skip
        inputs, state = [named("grid.getRowsRequest", request)], [named("search.data", shown)]
        body = {"output": output, "outputs": outputs, "inputs": inputs, "state": state}
        assert bob.client.post("/_dash-update-component", json=body).status_code == status
    assert bob.client.get(f"/trials.csv{shown}&filter={'[' * 20_000}").status_code == 400
    assert bob.client.get("/trials.csv?run=%00").status_code == 404


def test_the_pages_take_nothing_of_the_api(made: Made, tmp_path: Path) -> None:
    eve = Reader(made, "eve").client
    assert eve.get("/v1/nothing").status_code == 404
    assert eve.get("/v1/nothing").headers["content-type"] == "application/json"
    assert eve.post("/v1/events").status_code == 405
    assert eve.get("/nowhere").status_code == 404
    assert not [p for p in made.api.openapi()["paths"] if not p.startswith("/v1")]
