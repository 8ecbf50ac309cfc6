"""Generated requests, right and wrong ones, to every route of the API: no 5xx, and each answer as it is documented."""

from collections import Counter
from itertools import count
from typing import Any, cast

import pytest
import schemathesis
from schemathesis import Config
from schemathesis.engine import from_schema
from schemathesis.engine.events import EngineFinished, FatalError, NonFatalError, ScenarioFinished

from sweeper.client.models import Role, State
from sweeper.service.api import events
from sweeper.service.api.app import make_api
from tests.support.real_service import add_done, add_ended, make_real
from tests.support.service_fakes import make_service
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.service
CASES, FEW = 12, 6
# what a schema cannot say is refused as well: names that must be known, paths that must lie inside, sweeps that end
REFUSED = ["2xx", "400", "401", "403", "404", "409", "422"]


def _config(headers: dict[str, str], whole: bool = True) -> Config:
    return Config.from_dict(
        {
            "seed": 0,
            "headers": headers,
            "request-timeout": PATIENCE,
            "continue-on-failure": True,
            "generation": {"max-examples": CASES if whole else FEW, "database": "none"},
            "phases": {"stateful": {"enabled": False}, "coverage": {"enabled": whole}},
            "checks": {"positive_data_acceptance": {"expected-statuses": REFUSED}},
        }
    )


def _failures(schema: Any) -> list[str]:
    """Return what goes wrong with requests that are made from a schema; prints how many there were."""
    failures: list[str] = []
    done: Counter[str] = Counter()
    for event in from_schema(schema).execute():
        if isinstance(event, ScenarioFinished):
            done["cases"] += len(event.recorder.cases)
            for case_id, checks in event.recorder.checks.items():
                for check in checks:
                    done["checks"] += 1
                    if check.failure_info is not None:
                        case = event.recorder.cases[case_id].value
                        failure = check.failure_info.failure
                        failures.append(f"{case.as_curl_command()}\n{check.name}: {failure.title}: {failure.message}")
        elif isinstance(event, FatalError | NonFatalError):
            failures.append(str(getattr(event, "exception", None) or getattr(event, "value", event)))
        elif isinstance(event, EngineFinished):
            done["finished"] += 1
    print(dict(done))
    assert done["finished"] == 1
    assert done["cases"] > 5 * len(list(schema.get_all_operations()))
    return list(dict.fromkeys(failures))


@pytest.fixture(autouse=True)
def _end_quiet_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """End a stream once it is quiet: requests may name a live sweep, whose stream has no end."""

    async def expired(_: Any) -> bool:
        return False

    monkeypatch.setattr(events, "KEEP_ALIVE_SECONDS", 0.0)  # the token is checked when a stream is quiet
    monkeypatch.setattr(events, "still_valid", expired)


def test_every_answer_is_as_documented(tmp_path):
    service = make_service(tmp_path, auth=True)
    app = make_api(cast(Any, service))
    schema = schemathesis.openapi.from_asgi("/v1/openapi.json", app, config=_config(service.token("root", Role.ADMIN)))
    numbers = count()

    @schema.hook
    def map_path_parameters(context: Any, path_parameters: dict[str, Any]) -> dict[str, Any]:
        number = next(numbers)
        if "sweep" in (path_parameters or {}) and number % 2:  # every other request names a sweep that exists
            last = State.RUNNING if number % 4 == 1 else State.DONE
            path_parameters["sweep"] = service.add("root", State.STARTING, last)
        return path_parameters

    assert not (failures := _failures(schema)), "\n\n".join(failures)


def test_a_real_service_answers_as_documented(tmp_path):
    service = make_real(tmp_path, auth=True)
    try:
        kept = [add_done(service, trials=n, owner="root") for n in (3, 12)]
        token = {"Authorization": f"Bearer {service.users.create('root', Role.ADMIN)[1]}"}
        loaded = schemathesis.openapi.from_asgi(
            "/v1/openapi.json", make_api(service), config=_config(token, whole=False)
        )
        schema = loaded.include(path_regex="^/v1/sweeps")
        numbers = count()

        @schema.hook
        def map_path_parameters(context: Any, path_parameters: dict[str, Any]) -> dict[str, Any]:
            number = next(numbers)
            if "sweep" in (path_parameters or {}) and number % 4:
                method = context.operation.method.upper()
                # what changes a sweep gets one of its own, without a folder
                read = method == "GET" or context.operation.path.endswith("/extend")
                path_parameters["sweep"] = kept[number % 2] if read else add_ended(service, "root")
            return path_parameters

        assert not (failures := _failures(schema)), "\n\n".join(failures)
    finally:
        service.close()
