"""The README's table of requests and its paragraph on quotas are complete."""

import re
from pathlib import Path

from sweeper.cli.main import main
from sweeper.client.models import Quota
from sweeper.service.api.app import ROUTERS

README = Path(__file__).parents[2] / "README.md"


def test_every_route_is_in_the_readme():
    section = README.read_text().partition("## A service")[2].partition("\n## ")[0]
    table = "\n".join(line for line in section.splitlines() if line.startswith("|"))
    for router in ROUTERS:
        for route in router.routes:
            path = route.path.replace("{sweep}", "ID")
            short = path.removeprefix("/v1/sweeps/ID") if path != "/v1/sweeps/ID" else path
            assert re.search(rf"{re.escape(short)}[`?,]", table), path


def test_every_quota_is_in_the_readme_and_in_the_help(capsys):
    told = README.read_text().partition("- **Quotas.**")[2].partition("\n- **")[0]
    assert main(["token", "create", "--help"]) == 0
    shown = capsys.readouterr().out
    for name in Quota.model_fields:
        assert f"`{name}`" in told
        assert f"{name}=" in shown
