"""The README's table of requests is complete."""

import re
from pathlib import Path

from sweeper.service.app import ROUTERS

README = Path(__file__).parents[3] / "README.md"


def test_every_route_is_in_the_readme():
    section = README.read_text().partition("## A service")[2].partition("\n## ")[0]
    table = "\n".join(line for line in section.splitlines() if line.startswith("|"))
    for router in ROUTERS:
        for route in router.routes:
            path = route.path.replace("{sweep}", "ID")
            short = path.removeprefix("/v1/sweeps/ID") if path != "/v1/sweeps/ID" else path
            assert re.search(rf"{re.escape(short)}[`?,]", table), path
