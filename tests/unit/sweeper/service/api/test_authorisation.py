"""The table of authorisation: role x route, every cell; a route without a row fails."""

import pytest

from sweeper.client.models import Role, State
from tests.support.service_fakes import client_of, make_service

SPEC = {"space": "digits_cnn", "trials": 2}
NONE, VIEWER, SUBMITTER, ADMIN = "none", "viewer", "submitter", "admin"
ROLES = (NONE, VIEWER, SUBMITTER, ADMIN)
OPEN = dict.fromkeys(ROLES, 200)
READ = {NONE: 401, VIEWER: 200, SUBMITTER: 200, ADMIN: 200}
ADMINS = {NONE: 401, VIEWER: 403, SUBMITTER: 403, ADMIN: 200}

GENERAL = {
    ("GET", "/healthz"): OPEN,
    ("GET", "/readyz"): OPEN,
    ("GET", "/metrics"): READ,
    ("GET", "/v1/sweeps"): READ,
    ("POST", "/v1/sweeps"): {NONE: 401, VIEWER: 403, SUBMITTER: 202, ADMIN: 202},
    ("GET", "/v1/spaces"): READ,
    ("GET", "/v1/noises"): READ,
    ("GET", "/v1/merges"): READ,
    ("GET", "/v1/me"): READ,
    ("GET", "/v1/audit"): ADMINS,
    ("GET", "/v1/tokens"): ADMINS,
}
STREAMS = {("GET", "/v1/events"): READ}

# own, shared, foreign: of a sweep that is done
_SEEN = {
    NONE: (401, 401, 401), VIEWER: (200, 200, 404), SUBMITTER: (200, 200, 404), ADMIN: (200, 200, 200),
}  # fmt: skip


def _steered(status):
    return {
        NONE: (401, 401, 401), VIEWER: (403, 403, 404), SUBMITTER: (status, 403, 404), ADMIN: (status,) * 3,
    }  # fmt: skip


ONE = {
    ("GET", "/v1/sweeps/{sweep}"): _SEEN,
    ("GET", "/v1/sweeps/{sweep}/trials"): _SEEN,
    ("GET", "/v1/sweeps/{sweep}/recommendation"): _SEEN,
    ("GET", "/v1/sweeps/{sweep}/settings"): _SEEN,
    ("GET", "/v1/sweeps/{sweep}/best"): _SEEN,
    ("GET", "/v1/sweeps/{sweep}/best/weights"): _SEEN,
    ("GET", "/v1/sweeps/{sweep}/best/model"): _SEEN,
    ("GET", "/v1/sweeps/{sweep}/report"): _SEEN,
    ("GET", "/v1/sweeps/{sweep}/events"): _SEEN,
    ("POST", "/v1/sweeps/{sweep}/stop"): _steered(202),
    ("POST", "/v1/sweeps/{sweep}/cancel"): _steered(202),
    ("POST", "/v1/sweeps/{sweep}/resume"): _steered(202),
    ("POST", "/v1/sweeps/{sweep}/extend"): _steered(202),
    ("DELETE", "/v1/sweeps/{sweep}"): _steered(204),
}
_RUNS = ("stop", "cancel")


@pytest.fixture(scope="module")
def service(database, tmp_path_factory):
    service = make_service(tmp_path_factory.mktemp("table"), auth=True)
    service.headers = {role: service.token(f"{role}-user", Role(role)) for role in ROLES[1:]} | {NONE: {}}
    return service


@pytest.fixture(scope="module")
def client(service):
    return client_of(service)


def test_every_route_has_a_row(client):
    paths = client.app.openapi()["paths"]
    routes = {(method.upper(), path) for path, found in paths.items() for method in found}
    assert routes == GENERAL.keys() | STREAMS.keys() | ONE.keys()


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("route", GENERAL, ids=" ".join)
def test_routes_of_no_sweep(client, service, route, role):
    method, path = route
    answer = client.request(method, path, headers=service.headers[role], json=SPEC if method == "POST" else None)
    assert answer.status_code == GENERAL[route][role]


@pytest.mark.parametrize("role", ROLES)
def test_the_stream_of_all(client, service, role):
    client.app.state.api.closing.set()  # it has no end of its own
    try:
        answer = client.get("/v1/events", headers=service.headers[role])
    finally:
        client.app.state.api.closing.clear()
    assert answer.status_code == STREAMS["GET", "/v1/events"][role]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("route", ONE, ids=" ".join)
def test_routes_of_a_sweep(client, service, route, role):
    method, path = route
    owners = (f"{role}-user", "somebody", "somebody")
    found = []
    for owner, shared in zip(owners, (False, True, False), strict=True):
        states = (State.STARTING, State.RUNNING) if path.endswith(_RUNS) else (State.STARTING, State.DONE)
        sweep = service.add(owner, *states, shared=shared)
        weights = service.views.run_of(sweep)
        service.views.kept.add(weights)
        query = {"confirm": sweep} if method == "DELETE" else None
        answer = client.request(method, path.format(sweep=sweep), headers=service.headers[role], params=query)
        found.append(answer.status_code)
    assert tuple(found) == ONE[route][role]


def test_a_sweep_that_one_may_not_see_is_like_none(client, service):
    sweep = service.add("somebody")
    headers = service.headers[SUBMITTER]
    hidden, none = (client.get(f"/v1/sweeps/{s}", headers=headers) for s in (sweep, "digits_cnn-000"))
    assert hidden.json()["detail"].replace(sweep, "X") == none.json()["detail"].replace("digits_cnn-000", "X")
    assert hidden.status_code == none.status_code == 404


def test_lists_hold_what_one_may_see(client, service):
    mine, shared, foreign = (
        service.add("submitter-user"), service.add("somebody", shared=True), service.add("somebody")
    )  # fmt: skip
    for role, seen in ((SUBMITTER, (True, True, False)), (ADMIN, (True, True, True))):
        listed = client.get("/v1/sweeps?limit=200", headers=service.headers[role]).json()["items"]
        ids = {s["id"] for s in listed}
        assert tuple(s in ids for s in (mine, shared, foreign)) == seen
