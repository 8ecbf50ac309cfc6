"""The pages of the reference are what the code says: `make reference` writes them."""

import pytest

from tests.docs.reference import FOLDER, PAGES, json_schemas, text


@pytest.mark.parametrize("name", list(PAGES))
def test_a_page_is_what_the_code_says(name: str) -> None:
    assert (FOLDER / f"{name}.md").read_text() == text(name), "run `make reference`"


def test_the_schemas_are_those_of_the_code() -> None:
    assert (FOLDER / "json-schemas.json").read_text() == json_schemas(), "run `make reference`"


def test_every_page_is_generated() -> None:
    assert {p.stem for p in FOLDER.glob("*.md")} == set(PAGES)


@pytest.mark.parametrize("name", ["sweep", "trial", "tables", "names"])
def test_every_row_says_something(name: str) -> None:
    rows = [line for line in text(name).splitlines() if line.startswith("| `")]
    assert len(rows) > 5
    described = rows if name != "sweep" else rows[: rows.index(next(r for r in rows if r.startswith("| `min`")))]
    assert [row for row in described if row.rstrip().endswith("|  |") and "Source" not in row] == [] or name == "names"
