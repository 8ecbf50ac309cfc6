"""A reader of a service's pages."""

from __future__ import annotations

from typing import Any

from starlette.testclient import TestClient

from tests.support.pages_service import Made


class Reader:
    """A browser of a user, as far as it asks the callbacks."""

    def __init__(self, made: Made, user: str = "") -> None:
        self.client = TestClient(made.api, base_url="http://localhost", follow_redirects=False)
        if user:
            self.client.cookies.set(made.users.cookie, made.users.sign_in(made.tokens[user]))

    def asked(self, part: str, outputs: Any, inputs: dict[str, Any], state: dict[str, Any], by: str) -> str:
        """Ask the callback that makes a part; returns its whole answer."""
        known = [d["output"] for d in self.client.get("/_dash-dependencies").json()]
        answer = self.client.post(
            "/_dash-update-component",
            json={
                "output": next(o for o in known if part in o),
                "outputs": outputs,
                "inputs": [named(name, value) for name, value in inputs.items()],
                "state": [named(name, value) for name, value in state.items()],
                "changedPropIds": [by],
            },
        )
        assert answer.status_code in (200, 204), answer.text
        return answer.text.replace("\\u002f", "/")

    def drawn(self, search: str) -> str:
        from dashboards.app.app import INNER, PARTS

        outputs = [*(named(f"{n}.children") for n in PARTS), *([] for _ in INNER), named("shown.data")]
        asked = {"search": search, "theme": "light", "version": "1"}
        return self.asked("title.children", outputs, {"asked.data": asked}, {"shown.data": None}, "asked.data")

    def rows(self, search: str) -> str:
        outputs = [named("grid.getRowsResponse"), named("count.children")]
        request = {"grid.getRowsRequest": {"startRow": 0, "endRow": 9}}
        return self.asked("getRowsResponse", outputs, request, {"search.data": search}, "grid.getRowsRequest")

    def details(self, search: str) -> str:
        inputs = {"search.data": search, "theme.data": ""}
        return self.asked("details.children", named("details.children"), inputs, {}, "search.data")

    def version(self, search: str) -> str:
        inputs, state = {"tick.n_intervals": 1, "beat.data": 1}, {"search.data": search, "version.data": ""}
        return self.asked("version.data", named("version.data"), inputs, state, "beat.data")


def named(name: str, *value: Any) -> dict[str, Any]:
    part, prop = name.split(".")
    return {"id": part, "property": prop, **({"value": value[0]} if value else {})}
