"""The image's recipe: it copies what is there and in its context, runs as a user, and holds no secret."""

import re
from pathlib import Path

from trainables.runtime import COMMIT_FILE

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text()


def instructions() -> list[tuple[str, str]]:
    """Return the instructions and what follows them, continued lines joined."""
    lines = [line for line in TEXT.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def test_instructions_are_known() -> None:
    assert {name for name, _ in instructions()} <= {"FROM", "ARG", "RUN", "ENV", "WORKDIR", "COPY", "USER", "CMD"}
    assert instructions()[0][0] == "FROM"


def test_what_is_copied_is_there_and_in_the_context() -> None:
    copied = [words for name, rest in instructions() if name == "COPY" for words in [rest.split()[1:-1]]]
    sources = {source for words in copied for source in words}
    assert {
        "pyproject.toml",
        "constraints.txt",
        "README.md",
        "trainables",
        "search_spaces",
        "sweeper",
        "dashboards",
    } == sources
    assert all((ROOT / source).exists() for source in sources)
    passed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert passed == sources


def test_it_runs_as_a_user_with_a_home() -> None:
    users = [rest for name, rest in instructions() if name == "USER"]
    assert users == ["sweeper"]
    assert "useradd --create-home" in TEXT
    # Ray's launcher reads HOME of the image
    assert re.search(r"^ENV HOME=/home/sweeper ", TEXT, re.M)


def test_versions_are_pinned_and_the_job_server_is_there() -> None:
    installs = re.findall(r"pip install (.*)", TEXT)
    assert installs
    assert all("--constraint constraints.txt" in line for line in installs)
    assert ".[cluster,dashboard]" in installs[-1]


def test_the_image_knows_its_commit() -> None:
    names = [name for name, _ in instructions()]
    # late: what comes before it is not built again for a new commit
    assert ("ARG", "COMMIT=") in instructions()[names.index("ARG") :][:1]
    assert f'echo "$COMMIT" > trainables/{COMMIT_FILE}' in TEXT
    assert names.index("ARG") > max(i for i, name in enumerate(names) if name == "COPY")


def test_no_secret_and_no_index_stands_in_it() -> None:
    assert not re.search(r"token=|secret|password|index-url|http://|https://", TEXT, re.IGNORECASE)
