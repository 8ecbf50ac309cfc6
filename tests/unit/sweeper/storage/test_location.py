"""Run folders that lie elsewhere: URIs read as paths do, from an S3 that answers over HTTP on this machine."""

import logging
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from sweeper.cli.main import main
from sweeper.errors import SpecError
from sweeper.storage import tables
from sweeper.storage.location import place_of
from sweeper.storage.run_folder import stored_spec
from tests.support.fake_sweep import write_sweep


@pytest.fixture(scope="module")
def s3() -> Iterator[tuple[object, str]]:
    """A client of an empty bucket `runs`, and the query that leads pyarrow to its server."""
    boto3 = pytest.importorskip("boto3")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with pytest.MonkeyPatch.context() as patch:
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(key, "test")
        server.start()
        host, port = server.get_host_and_port()
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
        client.create_bucket(Bucket="runs")
        yield client, f"?endpoint_override={host}:{port}&scheme=http&region=us-east-1"
        server.stop()


def upload(client: object, folder: Path, name: str) -> None:
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        client.put_object(Bucket="runs", Key=f"{name}/{file.relative_to(folder)}", Body=file.read_bytes())


def test_a_bucket_reads_as_the_folder_does(tmp_path: Path, s3: tuple[object, str], capsys) -> None:
    client, query = s3
    run = write_sweep(tmp_path / "run", trials=5)
    (run / "sweep.yaml").write_text("space: synthetic\ntrials: 5\nobjective: gain_mean\n")
    upload(client, run, "a/b")
    client.put_object(Bucket="runs", Key="a/b/trials/zz.parquet", Body=b"PAR1 cut off")
    uri = f"s3://runs/a/b{query}"
    for table in ("merges", "history", "search"):
        assert tables.read(uri, table).equals(tables.read(run, table)), table
    with pytest.warns(tables.SkippedPart, match=r"zz\.parquet cannot be read"):
        trials = tables.read_trials(uri)
    assert trials.equals(tables.read_trials(run))
    assert trials.num_rows == 5
    local = stored_spec(run).model_dump(exclude={"out"})
    assert stored_spec(uri).model_dump(exclude={"out"}) == local
    assert main(["list", uri]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 6
    assert "zz.parquet" in captured.err


def test_file_uris_are_paths(tmp_path: Path) -> None:
    run = write_sweep(tmp_path / "a run", trials=3)
    assert tables.read_trials(run.as_uri()).equals(tables.read_trials(run))
    assert stored_spec(run.as_uri()).trials == stored_spec(run).trials
    assert (place_of(run.as_uri()).name, place_of(run).name) == ("a run", "a run")


def test_a_missing_file_is_one_line(tmp_path: Path, s3: tuple[object, str], capsys) -> None:
    _, query = s3
    assert main(["status", f"s3://runs/nothing{query}"]) == 2
    assert capsys.readouterr().err.startswith("error: there is no folder s3://runs/nothing")
    with pytest.raises(SpecError, match="a place is a path or a URI of file, s3, gs, gcs"):
        place_of("ftp://host/run")
    assert main(["run", "synthetic", "--out", "s3://user:secret@runs/new"]) == 2
    said = capsys.readouterr().err
    assert "a place must not hold credentials, got s3://***@runs/new" in said
    assert "secret" not in said.replace("SECRET", "")


def test_a_store_that_does_not_answer_is_one_line(s3: tuple[object, str]) -> None:
    with pytest.raises(SpecError, match=r"^cannot reach s3://runs/a: .*(connect|CONNECTION)") as error:
        tables.read("s3://runs/a?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1", "trials")
    assert "\n" not in str(error.value)


def test_a_silent_store_gets_few_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "test")
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:  # connections are taken, and nobody reads
        port = silent.getsockname()[1]
        place = place_of(f"s3://runs/a?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1")
        with pytest.raises(SpecError, match="cannot reach s3://runs/a"):
            replace(place, seconds=0.0).exists()
        silent.settimeout(0.2)
        asked = 0
        with suppress(TimeoutError):
            while True:
                silent.accept()[0].close()
                asked += 1
    assert asked == 2  # not 30 times, which takes 100 s
