"""Guard: tokens and cookies, loopback names, other sites' pages, headers."""

import json
import re

import pytest
from sqlalchemy.exc import OperationalError

from sweeper.client.models import Role
from sweeper.net import is_loopback_name
from sweeper.service.api.auth import Buckets
from sweeper.service.policy.limits import Limits
from tests.support.service_fakes import client_of, make_service

SPEC = {"space": "digits_cnn", "trials": 2}


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("127.0.0.1:8000", True), ("localhost", True), ("[::1]:80", True), ("127.1.2.3", True), ("LOCALHOST:1", True),
        ("evil.example", False), ("127.0.0.1.evil", False), ("", False), ("[", False), ("localhost.evil:80", False),
        ("10.0.0.1", False), ("0.0.0.0", False), ("ip6-localhost", True), ("sweeps.localhost:8000", True),
        ("notlocalhost", False), ("::1", False), ("evil.example@127.0.0.1", False), ("a:b@localhost:80", False),
        ("127.0.0.1/evil.example", False), ("127.0.0.1?x", False), ("127.0.0.1#x", False), ("127.0.0.1\\@x", False),
        ("[::1", False), ("[::1]x", False), ("[localhost]", False), ("127.0.0.1:8000:1", False), ("127.0.0.1\n", False),
    ],
)  # fmt: skip
def test_loopback_names(host, ours):
    assert is_loopback_name(host) is ours


def test_without_tokens_only_loopback_names_are_answered(tmp_path):
    client = client_of(make_service(tmp_path))
    assert client.get("/v1/me").json()["user"] == "local"
    for path in ("/v1/me", "/healthz", "/"):
        assert client.get(path, headers={"Host": "evil.example"}).status_code == 403


def test_another_sites_page_changes_nothing(tmp_path):
    service = make_service(tmp_path)
    client = client_of(service)
    for origin, status in (("http://evil.example", 403), ("null", 403), ("http://[x", 403), ("http://127.0.0.1", 202)):
        assert client.post("/v1/sweeps", json=SPEC, headers={"Origin": origin}).status_code == status
    assert len(service.catalog.page()) == 1


def test_a_session_is_for_this_servers_pages_only(tmp_path):
    service = make_service(tmp_path, auth=True)
    _, token = service.users.create("anna", Role.SUBMITTER)
    client = client_of(service, cookies={service.users.cookie: service.users.sign_in(token)})
    assert client.get("/v1/me").json()["user"] == "anna"
    foreign = client.post("/v1/sweeps", json=SPEC, headers={"Origin": "https://evil.example"})
    assert foreign.status_code == 403
    assert client.post("/v1/sweeps", json=SPEC, headers={"Origin": "http://127.0.0.1"}).status_code == 202


def test_bad_tokens_are_refused(tmp_path):
    service = make_service(tmp_path, auth=True)
    client = client_of(service)
    _, token = service.users.create("anna", Role.SUBMITTER)
    session, name = service.users.sign_in(token), service.users.cookie
    texts = ("Bearer x", "Basic eDp5", f"Bearer {session}", f"Basic {token}")
    # a token is no session, nor the other way round, and the cookie of earlier versions is none of ours
    cookies = (f"{name}=x", f"{name}={token}", f"sweeper_token={token}", f"sweeper_0000={session}")
    for headers in ({}, *({"Authorization": t} for t in texts), *({"Cookie": c} for c in cookies)):
        answer = client.get("/v1/me", headers=headers)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert client.get("/v1/openapi.json").status_code == 200


def test_the_schema_which_needs_no_token_is_encoded_once(tmp_path, monkeypatch):
    client = client_of(make_service(tmp_path, auth=True))
    first = client.get("/v1/openapi.json")
    assert first.headers["content-type"] == "application/json"
    assert first.json() == client.app.openapi()
    monkeypatch.setattr(json.JSONEncoder, "encode", lambda *_: pytest.fail("the schema is encoded again"))
    again = client.get("/v1/openapi.json")
    assert (again.status_code, again.content) == (200, first.content)


def test_who_guesses_tokens_does_not_reach_the_database(tmp_path, monkeypatch):
    service = make_service(tmp_path, auth=True)
    _, good = service.users.create("anna", Role.VIEWER)
    _, new = service.users.create("ben", Role.VIEWER)
    client = client_of(service, Limits(rate=0.001, burst=3))
    looks, looked_up = [], service.users._look_up
    monkeypatch.setattr(service.users, "_look_up", lambda *asked: looks.append(asked) or looked_up(*asked))

    def ask(token):
        return client.get("/v1/me", headers={"Authorization": f"Bearer {token}"})

    assert ask(good).status_code == 200
    answers = [ask(f"swp_{n:012x}_{'x' * 43}") for n in range(20)]
    assert [a.status_code for a in answers] == [401] * 3 + [429] * 17
    assert int(answers[-1].headers["Retry-After"]) >= 1
    assert len(looks) == 4
    assert ask(good).status_code == 200  # of the same address, but known
    assert ask(good[:-1] + ("x" if good[-1] != "x" else "y")).status_code == 429
    assert ask(new).status_code == 429


def test_answers_carry_what_browsers_need(tmp_path):
    client = client_of(make_service(tmp_path))
    for path in ("/v1/me", "/v1/none", "/healthz"):
        headers = client.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"


def test_a_database_that_is_away_is_said_and_comes_back(tmp_path, monkeypatch):
    service = make_service(tmp_path)
    client = client_of(service)

    def away(*_):
        raise OperationalError("select", {}, Exception("gone"))

    monkeypatch.setattr(service.catalog, "get", away)
    monkeypatch.setattr(service.health, "check", lambda probe=True: "the database does not answer")
    answer = client.get("/v1/sweeps/x")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").status_code == 200


def test_a_service_that_does_not_look_after_its_sweeps_is_not_ready(tmp_path):
    service = make_service(tmp_path)
    client = client_of(service)
    assert client.get("/readyz").status_code == 200
    service.supervisor.late = 90
    answer = client.get("/readyz")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
    assert re.match(r"the service last checked its sweeps 9\d s ago", answer.json()["detail"])
    assert client.get("/healthz").status_code == 200


def test_buckets_fill_with_time():
    now = [0.0]
    buckets = Buckets(2.0, 3, lambda: now[0])
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert (buckets.wait("a"), buckets.wait("b"), buckets.take("b")) == (0.5, 0, 0)
    now[0] = 0.5
    assert buckets.take("a") == 0
    assert Buckets(0, 1).take("a") == 0
