"""Client of Ray's job server over HTTP; every error is one line and hides the token.

`ray.job_submission.JobSubmissionClient` (Ray 2.60) cannot do this. It sends requests without a time limit, so it waits
for ever for a silent server. It prefers `RAY_ADDRESS` to the address in its arguments, and needs the packages of
`ray[default]`. Its import takes 0.9 s, this module's 0.45 s.
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
_TOKEN_SOURCES = "RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token must hold the cluster's"


class UnreachableError(SpecError):
    """The job server does not answer."""


def parse_server_address(text: str) -> str:
    """Return the URL of a job server's address, which may lack the scheme.

    Raises:
        SpecError: The text is no address of a job server.
    """
    if text.startswith("ray://"):
        raise SpecError(f"the Ray client ({text}) is not a job server: give the dashboard's address, http://HEAD:8265")
    address = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or text in ("auto", "local"):
        raise SpecError(f"--address must be a job server's, such as http://HEAD:8265, got {text!r}")
    if parts.username or parts.password:
        raise SpecError("an address must not hold credentials: RAY_AUTH_TOKEN_PATH names the file with the token")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path.rstrip('/')}"


class JobServer:
    """Client of a cluster's job server.

    Args:
        address: URL of the server, or HOST:PORT.
        verify: File or folder of certificates to trust. False trusts any; True trusts the system's, or those of
            `REQUESTS_CA_BUNDLE`.

    Raises:
        SpecError: The address is wrong, the server does not answer, or it refuses the token.
    """

    def __init__(self, address: str, verify: str | bool = True) -> None:
        self.address, self.verify = parse_server_address(address), verify
        self._token = ""
        # this request needs no token, and other servers get none
        answer = self._request("GET", "/api/authentication_mode")
        mode = _parse_record(answer).get("authentication_mode") if answer.ok else None
        if mode == "token":
            self._token = token()
            if not self._token:
                raise SpecError(f"the cluster at {self.address} asks for a token: {_TOKEN_SOURCES}")
        self.version = str(_parse_record(self._request("GET", "/api/version")).get("ray_version", ""))
        if not self.version:
            raise SpecError(f"{self.address} answers, but is not a Ray job server: give the dashboard's address")

    def job(self, name: str) -> dict[str, Any] | None:
        """Return the server's record of a job; None for an unknown name."""
        answer = self._request("GET", f"/api/jobs/{quote(name, safe='')}", missing=True)
        return None if answer.status_code == 404 else _parse_record(answer)

    def names(self) -> list[str]:
        """Return the names of the submitted jobs."""
        jobs = self._request("GET", "/api/jobs/").json()
        return [str(job["submission_id"]) for job in jobs if job.get("submission_id")]

    def logs(self, name: str) -> str:
        """Return the output of a job until now."""
        return str(_parse_record(self._request("GET", f"/api/jobs/{quote(name, safe='')}/logs")).get("logs", ""))

    def stop(self, name: str) -> bool:
        """Stop a job; return whether it was running."""
        return bool(_parse_record(self._request("POST", f"/api/jobs/{quote(name, safe='')}/stop")).get("stopped"))

    def submit(self, name: str, command: str, runtime_env: Mapping[str, Any], notes: Mapping[str, str]) -> None:
        """Start a job.

        Raises:
            SpecError: The server refuses the job, or has one of this name.
        """
        body = {"entrypoint": command, "submission_id": name, "runtime_env": runtime_env, "metadata": notes}
        self._request("POST", "/api/jobs/", json=body, seconds=SUBMIT_SECONDS)

    def upload(self, archive: bytes) -> str:
        """Return the URI of a zip archive on the server, after an upload if the server lacks it."""
        name = f"_ray_pkg_{hashlib.sha256(archive).hexdigest()[:32]}.zip"
        path = f"/api/packages/gcs/{name}"
        if self._request("GET", path, missing=True).status_code == 404:
            self._request("PUT", path, data=archive, seconds=SUBMIT_SECONDS)
        return f"gcs://{name}"

    def _request(
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
                f"cannot connect to {self.address}: {reason(error)}; give the address of the head's dashboard; the "
                "head needs ray[default]"
            ) from None
        if answer.status_code in (401, 403):
            reaction = "asks for a token" if answer.status_code == 401 else "refuses this machine's token"
            raise SpecError(f"the cluster at {self.address} {reaction}: {_TOKEN_SOURCES}")
        if answer.status_code in (502, 503, 504):
            raise UnreachableError(f"{self.address} answers {answer.status_code} to {method} {path}")
        if not answer.ok and not (missing and answer.status_code == 404) and path != "/api/authentication_mode":
            raise SpecError(f"{self.address} answers {answer.status_code} to {method} {path}: {_last_line(answer)}")
        return answer


def has_ended(job: Mapping[str, Any]) -> bool:
    """Return whether a job has ended."""
    return job.get("status") in ENDED


def wait_for_end(server: JobServer, name: str, seconds: float) -> dict[str, Any]:
    """Return the server's record of a job, after its end or after this time."""
    deadline = time.monotonic() + seconds
    while True:
        job = server.job(name) or {}
        if has_ended(job) or time.monotonic() >= deadline:
            return job
        time.sleep(0.5)


def _parse_record(answer: Response) -> dict[str, Any]:
    try:
        record = answer.json()
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _last_line(answer: Response) -> str:
    lines = [line.strip() for line in answer.text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else answer.reason
