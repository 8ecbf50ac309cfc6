"""Connection of a client to a service: requests whose answers become records."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from sweeper.client.encoding import JSON, query
from sweeper.client.transport import ClientError, Transport
from sweeper.errors import SpecError

if TYPE_CHECKING:
    from typing import Self

    from requests import Response

T = TypeVar("T")


class Connection:
    """A connection to a service; `sweeper.client.client.Client` describes the arguments."""

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        timeout: float = 30.0,
        ca: str | None = None,
        insecure: bool = False,
    ) -> None:
        self._http = Transport(url, token, timeout, ca, insecure)
        self.url = self._http.address

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _read(self, kind: type[T], path: str, parameters: Mapping[str, Any] | None = None) -> T:
        return self._parse(kind, self._http.send("GET", path, params=query(parameters or {})))

    def _post(self, kind: type[T], path: str, *, repeatable: bool = False, **content: Any) -> T:
        content.setdefault("headers", {"Content-Type": JSON})
        return self._parse(kind, self._http.send("POST", path, repeatable=repeatable, **content))

    def _parse(self, kind: type[T], answer: Response) -> T:
        try:
            return TypeAdapter(kind).validate_json(answer.content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise self._unexpected(f"{where}: {first['msg']}" if where else first["msg"]) from None

    def _unexpected(self, why: str) -> ClientError:
        return ClientError(f"{self.url} answers, but is not a sweeper service of this version: {why}")

    def _check_cursor(self, new: str, old: str | None) -> None:
        if new == old:
            raise self._unexpected("its pages never end")

    def _fetch(self, path: str, file: Path, parameters: Mapping[str, Any] | None = None, seconds: float = 0.0) -> Any:
        """Write an answer to a file and return its headers; `seconds` is the longest silence, if above the timeout."""
        seconds = max(seconds, self._http.timeout)
        with self._http.stream(path, seconds, params=query(parameters or {})) as answer, file.open("wb") as stream:
            check_room(file, answer.headers.get("Content-Length", ""))
            for piece in answer.iter_content(1 << 20):
                stream.write(piece)
            return answer.headers


def check_room(file: Path, size: str) -> None:
    """Check that the disk has room for a download.

    Args:
        file: The file.
        size: Its size in bytes, as a service names it; other texts are ignored.

    Raises:
        SpecError: It has not.
    """
    free = shutil.disk_usage(file.parent).free
    if size.isdigit() and int(size) > free:
        raise SpecError(f"{file.parent} needs {int(size) / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free")
