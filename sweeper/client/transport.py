"""Requests to a service: safe ones are retried, every error is one sentence, and no message shows the token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import requests
from pydantic import ValidationError

from sweeper.backoff import Backoff
from sweeper.client.credentials import WHERE, check_secret, read_token, service_address
from sweeper.client.models import Problem
from sweeper.errors import SpecError
from sweeper.net import CONNECT_SECONDS, Bearer, clean_line, reason
from trainables import __version__

TRIES = 6
BACKOFF = Backoff(0.25, 8.0)
MOST_WAIT_SECONDS = 60.0
"""Longest Retry-After that is followed."""
_AWAY = (502, 503, 504)

T = TypeVar("T")


class ClientError(SpecError):
    """A service refused a request, or could not be reached.

    Attributes:
        status: HTTP status of the answer, or None.
        problem: The problem document of the answer, or None.
        passing: Whether the same request may succeed later.
        retry_after: Seconds that the service asks to wait before a retry, or None.
    """

    def __init__(
        self,
        text: str,
        status: int | None = None,
        problem: Problem | None = None,
        passing: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(text)
        self.status, self.problem, self.passing, self.retry_after = status, problem, passing, retry_after


class Transport:
    """One service over HTTP; see `sweeper.client.Client` for the arguments."""

    def __init__(self, url: str | None, token: str | None, timeout: float, ca: str | None, insecure: bool) -> None:
        self.address, self.timeout = service_address(url), timeout
        secret = read_token(token)
        if not insecure:
            check_secret(self.address, secret)
        if ca is not None and not Path(ca).exists():
            raise SpecError(f"--ca must be a file or folder of certificates; {ca} does not exist")
        self._has_token, self._verify = bool(secret), False if insecure else ca or True
        self._session = requests.Session()
        self._session.auth = Bearer(secret)
        self._session.headers["User-Agent"] = f"sweeper/{__version__}"

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def send(self, method: str, path: str, *, repeatable: bool = False, **content: Any) -> requests.Response:
        """Return the answer to a request.

        Args:
            method: GET, POST or DELETE.
            path: Path after the address.
            repeatable: Whether a POST may be repeated, thanks to an Idempotency-Key or because it changes nothing.
            content: Arguments of `requests.request`.

        Raises:
            ClientError: The service refuses the request, or cannot be reached after retries of a repeatable request.
        """
        if not repeatable and method not in ("GET", "DELETE"):
            return self._send_once(method, path, **content)

        def act(tries: int) -> requests.Response:
            try:
                return self._send_once(method, path, **content)
            except ClientError as error:
                if method == "DELETE" and tries > 1 and error.status == 404:
                    return requests.Response()  # an earlier try deleted it, but its answer was lost
                raise

        return self.retry(act)

    def retry(self, act: Callable[[int], T]) -> T:
        """Call `act` with the number of the try until it succeeds, and return its result.

        Raises:
            ClientError: Error of the last try, or one that does not pass.
        """
        numbers = count(1)
        return BACKOFF.call(
            lambda: act(next(numbers)),
            lambda error: isinstance(error, ClientError) and error.passing and _wait(error) <= MOST_WAIT_SECONDS,
            lambda state: state.attempt_number >= TRIES,
            _wait,
        )

    @contextmanager
    def stream(self, path: str, seconds: float, **content: Any) -> Iterator[requests.Response]:
        """Yield the answer to a GET whose content is read as it arrives.

        Args:
            path: Path after the address.
            seconds: Longest silence.
            content: Arguments of `requests.request`.

        Raises:
            ClientError: The service refuses the request, cannot be reached, or breaks off.
        """
        answer = self._send_once("GET", path, seconds, stream=True, **content)
        with answer, self._translate_errors(seconds):
            yield answer

    def _send_once(self, method: str, path: str, seconds: float | None = None, **content: Any) -> requests.Response:
        seconds = seconds or self.timeout
        with self._translate_errors(seconds):
            answer = self._session.request(
                method, self.address + path, verify=self._verify, timeout=(CONNECT_SECONDS, seconds),
                allow_redirects=False, **content,
            )  # fmt: skip
            if answer.ok and not answer.is_redirect:
                return answer
            with answer:
                raise self._error_of(answer, f"{method} {path}")

    @contextmanager
    def _translate_errors(self, seconds: float) -> Iterator[None]:
        """Turn exceptions of the HTTP client into `ClientError`."""
        try:
            yield
        except requests.exceptions.SSLError as error:
            raise ClientError(
                f"the certificate of {self.address} is not trusted: {reason(error)}; trust one by --ca FILE (ca=)"
            ) from None
        except requests.exceptions.Timeout:
            raise ClientError(f"{self.address} does not answer within {seconds:g} s", passing=True) from None
        except requests.exceptions.RequestException as error:
            raise ClientError(
                f"no answer from {self.address}: {reason(error)}; check that `sweeper serve` runs and that --server or "
                "SWEEPER_SERVER gives its address",
                passing=isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError),
            ) from None

    def _error_of(self, answer: requests.Response, what: str) -> ClientError:
        status, problem, after = answer.status_code, _problem(answer), _retry_after(answer.headers)
        # a 429 without Retry-After is an exhausted quota
        passing = status in _AWAY or (status == 429 and after is not None)
        if problem is not None:
            text = clean_line(problem.detail, 2000)
        elif answer.is_redirect:
            text = f"{self.address} redirects to {clean_line(answer.headers['location'])}: use that server's address"
        else:
            text = f"{self.address} answers {status} {clean_line(answer.reason or '')} to {what}"
        if status == 401 and not self._has_token:
            text += f"; the token comes from {WHERE}"
        return ClientError(text, status, problem, passing, after)


def _wait(error: BaseException) -> float:
    return getattr(error, "retry_after", None) or 0.0


def _problem(answer: requests.Response) -> Problem | None:
    try:
        return Problem.model_validate_json(answer.content)
    except ValidationError:
        return None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    text = headers.get("Retry-After", "")
    return float(text) if text.isdigit() else None
