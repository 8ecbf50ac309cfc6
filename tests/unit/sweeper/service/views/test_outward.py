"""What the service says to others names sweeps by their ids, and no folder of the server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.routing import APIRoute
from starlette.testclient import TestClient

from dashboards.views.verdicts import use_judges
from sweeper.client.models import State
from sweeper.service.api.app import ROUTERS, make_api
from sweeper.service.api.events import encode
from sweeper.service.pages import mount
from sweeper.service.service import Service
from sweeper.service.views.outward import Outward
from tests.support.page_reader import Reader
from tests.support.real_service import add_done, add_ended, make_real
from tests.support.stored_parts import rewrite

pytestmark = pytest.mark.filterwarnings("ignore::sweeper.storage.tables.SkippedPart")
SPACE = """
from optuna.distributions import FloatDistribution
from search_spaces import Space, load

SPACE = load("synthetic")
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    root = tmp_path_factory.mktemp("servers-own")
    for name in ("sweeps", "sets/mine", "spaces"):
        (root / name).mkdir(parents=True)
    (root / "spaces" / "ours.py").write_text(SPACE)
    found = make_real(root / "sweeps", data=str(root / "sets"), spaces=root / "spaces")
    yield found
    found.close()
    use_judges(None)


@pytest.fixture(scope="module")
def sweeps(service: Service) -> dict[str, str]:
    root = Path(service.config.root).parent
    ended = add_ended(service)
    keys: dict[str, Any] = {"sampler": "noise", "prior": [{"best": 0.1, "low": 0.05, "high": 0.2}]}
    done = add_done(service, trials=30, data=str(root / "sets" / "mine"), **keys)
    folder = Path(service.config.run_of(done))
    part = sorted((folder / "trials").glob("*.parquet"))[0]
    table = pq.read_table(part)
    said = {
        "outcome": "failed",
        "outcome_detail": f"{root}/sets/mine/a.png does not exist",
        "warnings": f"odd: {folder}/bases is away",
    }
    for name, text in said.items():
        column = pa.array([text] * table.num_rows, table.schema.field(name).type)
        table = table.set_column(table.column_names.index(name), table.schema.field(name), column)
    rewrite(part, table)
    (folder / "trials" / "junk.parquet").write_bytes(b"junk")
    spec = {**service.catalog.get(done).spec, "prior": [service.config.run_of(ended)]}
    spec["space"] = str(root / "spaces" / "ours.py")
    odd = add_ended(service)
    reason = f"the disk of {folder} is full; `sweeper resume {service.config.run_of(odd)}` continues it"
    service.catalog.change(odd, spec=spec, reason=reason)
    lost = add_ended(service)
    return {"done": done, "odd": odd, "lost": lost}


@pytest.fixture(scope="module")
def api(service: Service) -> Any:
    found = make_api(service)
    mount(found, service)
    return found


def _clean(service: Service, text: str) -> None:
    root = str(Path(service.config.root).parent)
    for path in (root, str(Path(root).resolve()), str(Path.home()) + "/", str(Path(__file__).parents[5])):
        where = text.find(path)
        assert where < 0, text[max(0, where - 200) : where + 200]


def test_no_route_tells_a_folder_of_the_server(service: Service, sweeps: dict[str, str], api: Any) -> None:
    client = TestClient(api, base_url="http://localhost:8000", raise_server_exceptions=False)
    routes = [r for router in ROUTERS for r in router.routes if isinstance(r, APIRoute)]
    asked = [(m, r.path) for r in routes for m in sorted(r.methods or ()) if not r.path.endswith("/events")]
    assert len(asked) >= 18
    seen = 0
    for method, path in asked:
        for sweep in sweeps.values() if "{sweep}" in path else ("",):
            query = {"dry_run": "true"} if method == "POST" else {"confirm": "no"} if method == "DELETE" else {}
            if method == "POST" and path.endswith(("/resume", "/stop", "/cancel")):
                query, body = {}, json.dumps({"data": service.config.root, "out": service.config.root})
            else:
                body = json.dumps({"space": "synthetic", "data": f"{service.config.root}/../sets/../elsewhere"})
                body = body if path == "/v1/sweeps" and method == "POST" else ""
            answer = client.request(
                method, path.replace("{sweep}", sweep), params=query, content=body.replace(service.config.root, "/a"),
                headers={"Content-Type": "application/json"},
            )  # fmt: skip
            _clean(service, answer.text)
            _clean(service, str(answer.headers))
            seen += answer.status_code < 400
    assert seen >= 15
    _clean(service, client.get("/v1/openapi.json").text)


def test_trials_and_reasons_name_things_by_what_others_know(service: Service, sweeps: dict[str, str], api: Any) -> None:
    client = TestClient(api, base_url="http://localhost:8000")
    done, odd = sweeps["done"], client.get(f"/v1/sweeps/{sweeps['odd']}").json()
    failed = [t for t in client.get(f"/v1/sweeps/{done}/trials").json()["items"] if t["outcome"] == "failed"]
    assert [t["outcome_detail"] for t in failed] == ["DATA/mine/a.png does not exist"]
    assert [t["warnings"] for t in failed] == [f"odd: {done}/bases is away"]
    assert odd["run"] == sweeps["odd"]
    assert odd["reason"] == f"the disk of {done} is full; `sweeper resume {sweeps['odd']} --server URL` continues it"
    assert odd["spec"]["space"] == "ours"
    assert odd["spec"]["data"] == "mine"
    assert odd["spec"]["prior"][0].startswith("synthetic-")


def test_what_is_shown_of_a_spec_is_admitted_again(service: Service, sweeps: dict[str, str], api: Any) -> None:
    client = TestClient(api, base_url="http://localhost:8000")
    (Path(service.config.root).parent / "sets" / "mine").mkdir(exist_ok=True)
    for sweep in ("done", "odd"):
        spec = client.get(f"/v1/sweeps/{sweeps[sweep]}").json()["spec"]
        spec.pop("prior", None)
        answer = client.post("/v1/sweeps", params={"dry_run": True}, json=spec)
        assert answer.status_code == 200, answer.text


def test_the_report_and_the_pages_name_the_sweep_and_the_server_as_it_was_reached(
    service: Service, sweeps: dict[str, str], api: Any
) -> None:
    done = sweeps["done"]
    for url in ("http://localhost:8000", "http://127.0.0.1:9"):
        report = TestClient(api, base_url=url).get(f"/v1/sweeps/{done}/report").text
        _clean(service, report)
        assert f"sweeper extend {done} --server {url}</code>" in report
        assert "junk.parquet" in report
    reader = Reader(SimpleNamespace(api=api))  # type: ignore[arg-type]
    from dashboards.views import VIEWS

    service_pages = [reader.drawn(f"?run={done}&tab={tab}") for tab in VIEWS]
    digest = sorted((Path(service.config.run_of(done)) / "trials").glob("*.parquet"))[0].stem
    details = reader.details(f"?run={done}&tab=trials&trial={digest}")
    assert f"sweeper pair {done} {digest} --server http://localhost" in details
    others = [reader.drawn(f"?run={sweeps[k]}") for k in ("odd", "lost")]
    rows = reader.rows(f"?run={done}&tab=trials")
    csv = reader.client.get(f"/trials.csv?run={done}&tab=trials").text
    assert "DATA/mine/a.png" in csv
    for text in (
        *service_pages,
        details,
        *others,
        rows,
        csv,
        reader.drawn(""),
        reader.client.get("/_dash-layout").text,
    ):
        _clean(service, text)
    (Path(service.config.run_of(sweeps["lost"]))).write_text("a file")
    service.catalog.move(sweeps["lost"], State.QUEUED, "again")
    _clean(service, reader.drawn(f"?run={sweeps['lost']}"))


def test_folders_are_named_and_other_text_stays() -> None:
    told = Outward("/srv/runs", {"/srv/runs/.service": "STATE", "/": "ROOT", "/home/a": "~"}, "/srv/runs/data")
    for text, said in {
        "/srv/runs/x-1/trials holds no sweep": "x-1/trials holds no sweep",
        "there is no folder /srv/runs": "there is no folder ROOT",
        "/srv/runs/.service/a, /srv/runs/data/b and /srv/runs2": "STATE/a, DATA/b and /srv/runs2",
        "`sweeper extend '/srv/runs/x-1' --noise b` goes on": "`sweeper extend x-1 --noise b --server URL` goes on",
        "file:///srv/runs/x-1": "x-1",
        "/mnt/srv/runs/x and loss/epoch 1/2": "/mnt/srv/runs/x and loss/epoch 1/2",
        "cannot read /home/a/b": "cannot read ~/b",
    }.items():
        assert told.text(text) == said
    store = Outward("s3://bucket/runs?region=eu", {}, "")
    assert store.text("`sweeper resume s3://bucket/runs/x-1?region=eu` continues") == (
        "`sweeper resume x-1 --server URL` continues"
    )
    assert store.text("cannot reach s3://bucket/runs/x-1") == "cannot reach x-1"


EVIL = "a\x1b[31m\x9b\u202eb"


@pytest.mark.parametrize("name", [EVIL, "a\nb", "\u2028", "\ufeff", "\U000e0041"], ids=ascii)
def test_names_and_webhooks_hold_no_control_characters(api: Any, name: str) -> None:
    client = TestClient(api, base_url="http://localhost:8000")
    for key, value in {"name": name, "webhook": f"https://host/{name}"}.items():
        answer = client.post("/v1/sweeps", params={key: value, "dry_run": True}, json={"space": "synthetic"})
        assert answer.status_code == 422
        said = answer.json()["detail"]
        assert said.startswith(f"{key}: must not hold control or format characters, got '")
        assert said.isascii()
    assert client.post(
        "/v1/sweeps", params={"name": "größer – 2", "dry_run": True}, json={"space": "synthetic"}
    ).is_success


def test_a_name_of_an_earlier_version_is_escaped_wherever_it_is_shown(service: Service, api: Any) -> None:
    sweep = add_ended(service)
    service.catalog.change(sweep, name=EVIL, reason=EVIL)
    client = TestClient(api, base_url="http://localhost:8000")
    page = Reader(SimpleNamespace(api=api))  # type: ignore[arg-type]
    shown = [client.get(f"/v1/sweeps/{sweep}").text, client.get("/v1/sweeps").text, page.drawn("")]
    shown.append(encode(service.hub.publish(sweep, "state", {"state": "done", "reason": EVIL})).decode())
    for text in shown:
        assert not [c for c in "\x1b\x9b\u202e" if c in text]
    assert client.get(f"/v1/sweeps/{sweep}").json()["name"] == EVIL
