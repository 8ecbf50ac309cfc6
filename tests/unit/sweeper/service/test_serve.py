"""`sweeper serve` and `sweeper token`: what they refuse, what they print, and a server that ends."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import urllib.request

import pytest

from sweeper.cli.commands.serve import parse_duration, parse_quota
from sweeper.cli.main import main
from sweeper.client import Client, ClientError
from sweeper.errors import SpecError
from sweeper.service.db.ownership import Ownership
from sweeper.service.db.tables import open_database
from tests.support.certificates import certificate
from tests.support.waiting import PATIENCE


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SWEEPER_WEBHOOK_SECRET", raising=False)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--host", "0.0.0.0"], "add --auth"),
        (["--port", "70000"], "--port must lie in 0 to 65535"),
        (["--rate", "-1"], "--rate must lie in 0 to 1e9"),
        (["--spaces", "none"], "--spaces must be a folder, got none"),
        (["--key", "k.pem"], "--key needs --certificate"),
        (["--certificate", "c.pem"], "cannot use the certificate in c.pem"),
        (["--webhook", "https://hooks.lab/"], "needs a secret"),
        (["--webhook", "http://hooks.lab/"], "must be an https URL"),
        (["--webhook", "https://hooks.lab/", "--webhook-secret", "none"], "cannot read none"),
        (["--database", "mysql://x", "--port", "0"], "--database must be"),
        (["--root", "s3://bucket/x", "--port", "0"], "--state DIR"),
    ],
)
def test_what_cannot_be_served(flags, sentence, capsys):
    assert main(["serve", *flags]) == 2
    assert sentence in capsys.readouterr().err


def test_a_database_of_another_folder_is_not_served(tmp_path, capsys):
    url = f"sqlite:///{tmp_path}/shared.db"
    engine = open_database(url)
    Ownership(engine, tmp_path)
    engine.dispose()
    assert main(["serve", "--root", "other", "--database", url, "--port", "0"]) == 2
    assert "the database belongs to the state folder" in capsys.readouterr().err


def test_tokens_are_made_listed_and_revoked(capsys):
    assert main(["token", "list"]) == 0
    assert "no tokens yet" in capsys.readouterr().out
    make = ["token", "create", "anna", "--role", "submitter", "--expires", "30d", "--quota", "running=2", "--json"]
    assert main(make) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["token"].startswith(f"swp_{made['id']}_")
    assert made["quota"]["running"] == 2
    assert main(["token", "revoke", made["id"]]) == 0
    assert main(["token", "list"]) == 0
    shown = capsys.readouterr().out
    assert "anna" in shown
    assert made["token"] not in shown
    assert main(["token", "revoke", made["id"]]) == 2
    assert "was already revoked on" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "30", "d", "0d", "-1d", "3y", "1.5h", "999999999w"])
def test_times_that_are_none(text):
    assert parse_duration("2w") == 14 * 86400
    with pytest.raises(SpecError, match="--expires must be a duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["jobs=3", "running", "running=x", "running=-1", "gpu_hours=nan", "trials=1.5"])
def test_quotas_that_are_none(text):
    assert parse_quota(["gpu_hours=1.5", "trials=3"]).gpu_hours == 1.5
    with pytest.raises(SpecError, match="--quota"):
        parse_quota([text])


def test_a_server_with_tls_takes_the_next_port_ends_its_streams_and_says_so(tmp_path, monkeypatch):
    cert, key = map(str, certificate(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("SWEEPER_TOKEN", "SWEEPER_TOKEN_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "sweeper", "serve", "--port", str(port), "--root", "r"]
        command += ["--certificate", cert, "--key", key]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
        try:
            assert "is in use; using the next free port" in server.stdout.readline()
            url = server.stdout.readline().split()[0]
            assert url.startswith("https://127.0.0.1:")
            with Client(url) as client, pytest.raises(ClientError, match=r"is not trusted.*; trust one by --ca FILE"):
                client.me()
            with Client(url, ca=cert) as client:
                assert client.me().user == "local"
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", cert)
            with Client(url) as client:
                assert client.me().user == "local"
            trusted = ssl.create_default_context(cafile=cert)
            with urllib.request.urlopen(f"{url}v1/events", timeout=PATIENCE, context=trusted) as stream:
                assert stream.readline() == b": events\n"
                server.send_signal(signal.SIGTERM)
                stream.read()
            _, errors = server.communicate(timeout=PATIENCE)
        finally:
            server.kill()
    assert (server.returncode, errors.strip()) == (0, "stopped")
