"""Ray's job server over HTTP: submit, look, read logs, stop; every failure is one line, and the token is never shown.

`ray.job_submission.JobSubmissionClient` (Ray 2.60) cannot do this. It sends requests without a time limit, so it waits
for ever for a server that does not answer. It prefers `RAY_ADDRESS` to the address in its arguments, and needs the
packages of `ray[default]`. Its import takes 0.9 s, this module's 0.45 s.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from sweeper.errors import SpecError
from sweeper.net import CONNECT_SECONDS, Bearer, reason
from sweeper.runner.ray_tune.address import token

if TYPE_CHECKING:
    from requests import Response

ANSWER_SECONDS, SUBMIT_SECONDS = 30.0, 120.0
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_GIVE_TOKEN = "RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token must hold the cluster's"


class UnreachableError(SpecError):
    """The job server does not answer."""


def server_address(text: str) -> str:
    """Return the address of a job server as a URL.

    Raises:
        SpecError: It is no address of a job server.
    """
    if text.startswith("ray://"):
        raise SpecError(f"the Ray client ({text}) is no job server: give the dashboard's address, http://HEAD:8265")
    address = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or text in ("auto", "local"):
        raise SpecError(f"--address must be a job server's, such as http://HEAD:8265, got {text!r}")
    if parts.username or parts.password:
        raise SpecError("an address must hold no credentials: RAY_AUTH_TOKEN_PATH names the file with the token")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path.rstrip('/')}"


class JobServer:
    """Client of a cluster's job server.

    Args:
        address: Its URL, or HOST:PORT.
        verify: File or folder of certificates to trust; False trusts any. True takes the system's, or those that
            `REQUESTS_CA_BUNDLE` names.

    Raises:
        SpecError: The address is wrong, the server does not answer, or it refuses the token.
    """

    def __init__(self, address: str, verify: str | bool = True) -> None:
        self.address, self.verify = server_address(address), verify
        self._token = ""
        # this request needs no token; a server that asks for none gets none
        answer = self._ask("GET", "/api/authentication_mode")
        mode = _record(answer).get("authentication_mode") if answer.ok else None
        if mode == "token":
            self._token = token()
            if not self._token:
                raise SpecError(f"the cluster at {self.address} asks for a token: {_GIVE_TOKEN}")
        self.version = str(_record(self._ask("GET", "/api/version")).get("ray_version", ""))
        if not self.version:
            raise SpecError(f"{self.address} answers, but is no Ray job server: give the dashboard's address")

    def job(self, name: str) -> dict[str, Any] | None:
        """Return the server's record of a job; None if it knows no job of this name."""
        answer = self._ask("GET", f"/api/jobs/{quote(name, safe='')}", missing=True)
        return None if answer.status_code == 404 else _record(answer)

    def names(self) -> list[str]:
        """Return the names of the submitted jobs."""
        jobs = self._ask("GET", "/api/jobs/").json()
        return [str(job["submission_id"]) for job in jobs if job.get("submission_id")]

    def logs(self, name: str) -> str:
        """Return all that a job has printed so far."""
        return str(_record(self._ask("GET", f"/api/jobs/{quote(name, safe='')}/logs")).get("logs", ""))

    def stop(self, name: str) -> bool:
        """Ask a job to stop; return whether it ran."""
        return bool(_record(self._ask("POST", f"/api/jobs/{quote(name, safe='')}/stop")).get("stopped"))

    def submit(self, name: str, command: str, runtime_env: Mapping[str, Any], notes: Mapping[str, str]) -> None:
        """Start a job; the name must be new.

        Raises:
            SpecError: The server refuses it, or knows a job of this name.
        """
        body = {"entrypoint": command, "submission_id": name, "runtime_env": runtime_env, "metadata": notes}
        self._ask("POST", "/api/jobs/", json=body, seconds=SUBMIT_SECONDS)

    def upload(self, archive: bytes) -> str:
        """Upload a zip archive unless the server has it, and return its URI."""
        name = f"_ray_pkg_{hashlib.sha256(archive).hexdigest()[:32]}.zip"
        path = f"/api/packages/gcs/{name}"
        if self._ask("GET", path, missing=True).status_code == 404:
            self._ask("PUT", path, data=archive, seconds=SUBMIT_SECONDS)
        return f"gcs://{name}"

    def _ask(
        self, method: str, path: str, *, missing: bool = False, seconds: float | None = None, **content: Any
    ) -> Response:
        import requests

        seconds = seconds or ANSWER_SECONDS
        try:
            answer = requests.request(
                method, self.address + path, auth=Bearer(self._token), verify=self.verify,
                timeout=(CONNECT_SECONDS, seconds), **content,
            )  # fmt: skip
        except requests.exceptions.SSLError as error:
            raise SpecError(
                f"the certificate of {self.address} is not trusted: {reason(error)}; --ca FILE names one to trust"
            ) from None
        except requests.exceptions.Timeout:
            raise UnreachableError(f"{self.address} does not answer within {seconds:g} s") from None
        except (requests.exceptions.RequestException, OSError) as error:
            raise UnreachableError(
                f"cannot connect to {self.address}: {reason(error)}; it must be the address of the head's dashboard, "
                "and the head needs ray[default]"
            ) from None
        if answer.status_code in (401, 403):
            why = "asks for a token" if answer.status_code == 401 else "refuses the token at hand"
            raise SpecError(f"the cluster at {self.address} {why}: {_GIVE_TOKEN}")
        if answer.status_code in (502, 503, 504):
            raise UnreachableError(f"{self.address} answers {answer.status_code} to {method} {path}")
        if not answer.ok and not (missing and answer.status_code == 404) and path != "/api/authentication_mode":
            raise SpecError(f"{self.address} answers {answer.status_code} to {method} {path}: {_last_line(answer)}")
        return answer


def ended(job: Mapping[str, Any]) -> bool:
    """Whether a job has ended."""
    return job.get("status") in ENDED


def wait_for_end(server: JobServer, name: str, seconds: float) -> dict[str, Any]:
    """Return the server's record of a job once the job has ended or the time is over."""
    until = time.monotonic() + seconds
    while True:
        job = server.job(name) or {}
        if ended(job) or time.monotonic() >= until:
            return job
        time.sleep(0.5)


def _record(answer: Response) -> dict[str, Any]:
    try:
        record = answer.json()
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _last_line(answer: Response) -> str:
    lines = [line.strip() for line in answer.text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else answer.reason
