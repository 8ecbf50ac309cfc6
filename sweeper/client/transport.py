"""Requests to a service: sent again where that can do no harm; every failure is one sentence, the token never shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import requests
from pydantic import ValidationError

from sweeper.backoff import Backoff
from sweeper.client.credentials import WHERE, check_secret, found_token, service_address
from sweeper.client.models import Problem
from sweeper.errors import SpecError
from sweeper.net import CONNECT_SECONDS, Bearer, clean_line, reason
from trainables import __version__

TRIES = 6
BACKOFF = Backoff(0.25, 8.0)
MOST_WAIT_SECONDS = 60.0
"""Longest wait that a server may ask for by Retry-After."""
_AWAY = (502, 503, 504)

T = TypeVar("T")


class ClientError(SpecError):
    """A service refused a request, or could not be asked.

    Attributes:
        status: HTTP status of the answer; None where there was none.
        problem: What the service said, None where it was no problem document.
        passing: Whether the same request may succeed later.
        retry_after: Seconds after which the service wants to be asked again, None where it did not say.
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
        secret = found_token(token)
        if not insecure:
            check_secret(self.address, secret)
        if ca is not None and not Path(ca).exists():
            raise SpecError(f"--ca must be a file or folder of certificates; there is no {ca}")
        self._named, self._verify = bool(secret), False if insecure else ca or True
        self._session = requests.Session()
        self._session.auth = Bearer(secret)
        self._session.headers["User-Agent"] = f"sweeper/{__version__}"

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def ask(self, method: str, path: str, *, repeatable: bool = False, **content: Any) -> requests.Response:
        """Return the answer to a request.

        Args:
            method: GET, POST or DELETE.
            path: Behind the address.
            repeatable: Whether a POST may be sent twice: with an Idempotency-Key, or because it changes nothing.
            content: Of `requests.request`.

        Raises:
            ClientError: The service refuses it, or cannot be asked; a request that may be sent twice was tried again.
        """
        if not repeatable and method not in ("GET", "DELETE"):
            return self._once(method, path, **content)

        def act(tries: int) -> requests.Response:
            try:
                return self._once(method, path, **content)
            except ClientError as error:
                if method == "DELETE" and tries > 1 and error.status == 404:
                    return requests.Response()  # gone by the try whose answer was lost
                raise

        return self.again(act)

    def again(self, act: Callable[[int], T]) -> T:
        """Return what `act` returns, which is given the number of the try; passing errors of all but the last are lost.

        Raises:
            ClientError: Of the last try, or one that will not pass.
        """
        numbers = count(1)
        return BACKOFF.call(
            lambda: act(next(numbers)),
            lambda error: isinstance(error, ClientError) and error.passing and _wait(error) <= MOST_WAIT_SECONDS,
            lambda state: state.attempt_number >= TRIES,
            _wait,
        )

    @contextmanager
    def opened(self, path: str, seconds: float, **content: Any) -> Iterator[requests.Response]:
        """Yield the answer to a GET whose content is read as it comes.

        Args:
            path: Behind the address.
            seconds: Longest silence.
            content: Of `requests.request`.

        Raises:
            ClientError: The service refuses it or cannot be asked, or breaks off while it is read.
        """
        answer = self._once("GET", path, seconds, stream=True, **content)
        with answer, self._told(seconds):
            yield answer

    def _once(self, method: str, path: str, seconds: float | None = None, **content: Any) -> requests.Response:
        seconds = seconds or self.timeout
        with self._told(seconds):
            answer = self._session.request(
                method, self.address + path, verify=self._verify, timeout=(CONNECT_SECONDS, seconds),
                allow_redirects=False, **content,
            )  # fmt: skip
            if answer.ok and not answer.is_redirect:
                return answer
            with answer:
                raise self._refused(answer, f"{method} {path}")

    @contextmanager
    def _told(self, seconds: float) -> Iterator[None]:
        """Turn what the HTTP client raises into a sentence."""
        try:
            yield
        except requests.exceptions.SSLError as error:
            raise ClientError(
                f"the certificate of {self.address} is not trusted: {reason(error)}; --ca FILE (ca=) names one to trust"
            ) from None
        except requests.exceptions.Timeout:
            raise ClientError(f"{self.address} does not answer within {seconds:g} s", passing=True) from None
        except requests.exceptions.RequestException as error:
            raise ClientError(
                f"no answer from {self.address}: {reason(error)}; `sweeper serve` must run there, and --server or "
                "SWEEPER_SERVER name its address",
                passing=isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError),
            ) from None

    def _refused(self, answer: requests.Response, what: str) -> ClientError:
        status, problem, after = answer.status_code, _problem(answer), _seconds(answer.headers)
        # without Retry-After it is a quota
        passing = status in _AWAY or (status == 429 and after is not None)
        if problem is not None:
            text = clean_line(problem.detail, 2000)
        elif answer.is_redirect:
            text = f"{self.address} points to {clean_line(answer.headers['location'])}: give that server's address"
        else:
            text = f"{self.address} answers {status} {clean_line(answer.reason or '')} to {what}"
        if status == 401 and not self._named:
            text += f"; the token is read from {WHERE}"
        return ClientError(text, status, problem, passing, after)


def _wait(error: BaseException) -> float:
    return getattr(error, "retry_after", None) or 0.0


def _problem(answer: requests.Response) -> Problem | None:
    try:
        return Problem.model_validate_json(answer.content)
    except ValidationError:
        return None


def _seconds(headers: Mapping[str, str]) -> float | None:
    text = headers.get("Retry-After", "")
    return float(text) if text.isdigit() else None
