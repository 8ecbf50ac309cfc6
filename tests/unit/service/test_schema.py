"""Generated requests, right and wrong ones, to every route of the API: no 5xx, and each answer as it is documented."""

from collections import Counter
from itertools import count
from typing import Any, cast

import pytest
import schemathesis
from schemathesis import Config
from schemathesis.engine import from_schema
from schemathesis.engine.events import EngineFinished, FatalError, NonFatalError, ScenarioFinished

from sweeper.service.app import make_api
from sweeper.service.records import Role, State

from .service_fakes import make_service

pytestmark = pytest.mark.service
CASES = 12
# what a schema cannot say is refused as well: names that must be known, paths that must lie inside, sweeps that end
REFUSED = ["2xx", "400", "401", "403", "404", "409", "422"]


def _config(headers: dict[str, str]) -> Config:
    return Config.from_dict(
        {
            "seed": 0,
            "headers": headers,
            "request-timeout": 1.5,  # for so long a stream of events is read
            "continue-on-failure": True,
            "generation": {"max-examples": CASES, "database": "none"},
            "phases": {"stateful": {"enabled": False}},
            "checks": {"positive_data_acceptance": {"expected-statuses": REFUSED}},
        }
    )


def test_every_answer_is_as_documented(tmp_path):
    service = make_service(tmp_path, auth=True)
    app = make_api(cast(Any, service))
    loaded = schemathesis.openapi.from_asgi("/v1/openapi.json", app, config=_config(service.token("root", Role.ADMIN)))
    schema = loaded.exclude(path="/v1/events")  # which has no end; see test_events
    numbers = count()

    @schema.hook
    def map_path_parameters(context: Any, path_parameters: dict[str, Any]) -> dict[str, Any]:
        number = next(numbers)
        if "sweep" in (path_parameters or {}) and number % 2:  # every other one is a sweep that is there
            live = number % 4 == 1 and not context.operation.path.endswith("/events")
            path_parameters["sweep"] = service.add("root", State.STARTING, State.RUNNING if live else State.DONE)
        return path_parameters

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
    assert not failures, "\n\n".join(dict.fromkeys(failures))
    assert done["finished"] == 1
    assert done["cases"] > 500
