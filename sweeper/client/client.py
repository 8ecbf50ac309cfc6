"""Client: what a service answers to, as methods with typed results."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from sweeper.client.encoding import JSON, at, body, filters, plain_json, query
from sweeper.client.events import follow
from sweeper.client.models import Advice, Estimate, Event, Extension, Me, Submitted, Sweep, SweepDetail, SweepPage
from sweeper.client.transport import ClientError, Transport
from sweeper.errors import SpecError
from trainables.io.atomic import replace_atomic

if TYPE_CHECKING:
    import pyarrow as pa
    from requests import Response

    from sweeper.config.spec import SweepSpec

LOOK_SECONDS = 2.0
"""Between looks for trials that land."""
PAGE_SWEEPS = 200
ARROW = "application/vnd.apache.arrow.stream"

T = TypeVar("T")


class Client:
    """A sweep service.

    It holds connections open: give each thread its own, and close it, or use it in a `with`.

    Args:
        url: The service's address, such as `https://HOST:8000`; by default what SWEEPER_SERVER says.
        token: By default what SWEEPER_TOKEN says, else what stands in the file that SWEEPER_TOKEN_FILE names, or in
            `~/.config/sweeper/token`; nobody but its owner may read the file.
        timeout: Longest time of one answer [s]. Requests that do no harm twice are tried six times, over about 8 s.
        ca: File or folder of certificates to trust; by default the system's, or those of REQUESTS_CA_BUNDLE.
        insecure: Trust the way to the service: check no certificate, and send the token even in clear.

    Raises:
        SpecError: There is no such address or token, or the token may be read by others.
    """

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

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def submit(
        self,
        spec: SweepSpec | Mapping[str, Any] | Path | str,
        *,
        name: str | None = None,
        priority: int | None = None,
        shared: bool | None = None,
        webhook: str | None = None,
        key: str | None = None,
    ) -> Submitted:
        """Send a sweep to be run; however often it has to be tried, it is queued once.

        Args:
            spec: What to run: a SweepSpec, of which only what was set is sent; its keys and values; a YAML file; or
                YAML as text.
            name: What it is called in lists.
            priority: -100 to 100; higher ones start first.
            shared: Whether all users may see it.
            webhook: URL that is told of its end.
            key: Idempotency-Key: the same request with the same key is the same sweep. By default a new one a call.

        Raises:
            ClientError: The service refuses it; nothing was queued.
        """
        headers = {"Idempotency-Key": key or str(uuid.uuid4())}
        asked = {"name": name, "priority": priority, "shared": shared, "webhook": webhook}
        return self._sent(spec, Submitted, headers, asked)

    def estimate(self, spec: SweepSpec | Mapping[str, Any] | Path | str) -> Estimate:
        """Return what a sweep would cost, as far as earlier ones of its space tell; nothing is queued.

        Raises:
            ClientError: The service would refuse it.
        """
        return self._sent(spec, Estimate, {}, {"dry_run": True})

    def sweep(self, sweep: str) -> SweepDetail:
        """Return a sweep with its spec and its history."""
        return self._read(SweepDetail, at(sweep))

    def sweeps(
        self,
        *,
        state: str | Sequence[str] | None = None,
        owner: str | None = None,
        space: str | None = None,
    ) -> Iterator[Sweep]:
        """Yield the sweeps that one may see, the newest first, of a state, owner or space."""
        after: str | None = None
        while True:
            asked = {"state": state, "owner": owner, "space": space, "after": after, "limit": PAGE_SWEEPS}
            page = self._read(SweepPage, "/v1/sweeps", asked)
            yield from page.items
            if page.next is None:
                return
            self._moved(page.next, after)
            after = page.next

    def trials(
        self,
        sweep: str,
        *,
        where: Mapping[str, Any] | None = None,
        columns: Sequence[str] | None = None,
        outcome: str | None = None,
        config: str | None = None,
    ) -> pa.Table:
        """Return the trials that have landed by now, one row each, in the order in which they came.

        Args:
            sweep: The sweep's id.
            where: Column -> value: only these rows.
            columns: Only these columns.
            outcome: Only trials that ended so.
            config: Only trials of this configuration.
        """
        import pyarrow as pa

        # a trial that is run again lands again: its last row counts
        read = columns if columns is None or "digest" in columns else [*columns, "digest"]
        asked = filters(where, read, outcome, config)
        tables, after, more = list[Any](), None, True
        while more:
            table, after, more = self._landed(sweep, after, asked)
            tables.append(table)
        found = pa.concat_tables(tables)
        if "digest" not in found.column_names:
            return found
        last = {digest: row for row, digest in enumerate(found["digest"].to_pylist())}
        if len(last) < found.num_rows:
            found = found.take(sorted(last.values()))
        return found if columns is None else found.select(list(columns))

    def iter_trials(
        self,
        sweep: str,
        *,
        follow: bool = True,
        where: Mapping[str, Any] | None = None,
        columns: Sequence[str] | None = None,
        outcome: str | None = None,
        config: str | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Yield trials as they land, until the sweep has ended.

        Args:
            sweep: The sweep's id.
            follow: Whether to wait for those that have not landed yet.
            where: Column -> value: only these rows.
            columns: Only these columns.
            outcome: Only trials that ended so.
            config: Only trials of this configuration.
        """
        asked, after = filters(where, columns, outcome, config), None
        while True:
            over = not follow or self.sweep(sweep).state.ended  # before the page: then all has landed
            more = True
            while more:
                table, after, more = self._landed(sweep, after, asked)
                yield from table.to_pylist()
            if over:
                return
            time.sleep(LOOK_SECONDS)

    def recommend(
        self,
        sweep: str,
        *,
        batch_sizes: Sequence[int] = (),
        learning_rate: float | None = None,
        momentum: float | None = None,
        weight_decay: float | None = None,
        objective: str | Sequence[str] | None = None,
    ) -> list[Advice]:
        """Return hyperparameters that reach the best noise, as `sweeper.analysis.recommend.recommend` does.

        Raises:
            ClientError: There is no optimum yet (status 409), or a value breaks its rule.
        """
        asked = {"batch_size": list(batch_sizes), "learning_rate": learning_rate, "momentum": momentum}
        asked |= {"weight_decay": weight_decay, "objective": objective}
        return self._read(list[Advice], f"{at(sweep)}/recommendation", asked)

    def best(self, sweep: str) -> dict[str, Any]:
        """Return all about the configuration that wins so far.

        Raises:
            ClientError: Nothing has won yet (status 404).
        """
        return self._read(dict[str, Any], f"{at(sweep)}/best")

    def download_weights(self, sweep: str, path: str | Path) -> Path:
        """Write the best merged weights to a safetensors file and return its path; it is there whole or not at all.

        Raises:
            ClientError: The weights were not kept (status 404).
            SpecError: The file cannot be written.
        """
        path = Path(path)
        part = path.with_name(f".{path.name}.part")
        try:
            self._http.again(lambda _: self._fetch(f"{at(sweep)}/best/weights", part))
            replace_atomic(part, path)
        except OSError as error:
            raise SpecError(f"cannot write {path}: {error.strerror or error}") from None
        finally:
            part.unlink(missing_ok=True)
        return path

    def report(self, sweep: str) -> str:
        """Return the sweep's page: one HTML file that works offline."""
        return self._http.ask("GET", f"{at(sweep)}/report").content.decode(errors="replace")

    def events(self, sweep: str | None = None, after: int | None = None) -> Iterator[Event]:
        """Yield what happens to a sweep until its end, or to all sweeps for ever; lost connections are made anew.

        Args:
            sweep: The sweep's id; None takes all that one may see.
            after: Id of the last event that is known; the stream goes on behind it.

        Raises:
            ClientError: The service refuses it, or was away for two minutes.
        """
        return (event for event in follow(self._http, sweep, after) if event is not None)

    def wait(
        self, sweep: str, timeout: float | None = None, listener: Callable[[Event], None] = lambda _: None
    ) -> SweepDetail:
        """Return a sweep once it has ended.

        Args:
            sweep: The sweep's id.
            timeout: Wait at most so long [s].
            listener: Called with each event on the way.

        Raises:
            TimeoutError: It has not ended by then; it goes on.
            ClientError: The service refuses it, or was away for two minutes.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while not (detail := self.sweep(sweep)).state.ended:
            for event in follow(self._http, sweep, None, until):
                if event is not None:
                    listener(event)
                # in silence the state is looked at: a stream may have lost the end
                elif (found := self._seen(sweep)) is not None and found.state.ended:
                    return found
                if until is not None and time.monotonic() >= until:
                    raise TimeoutError(f"sweep {sweep} is {detail.state} after {timeout:g} s; it goes on")
        return detail

    def stop(self, sweep: str) -> Sweep:
        """Let a sweep end what runs and start nothing new."""
        return self._post(Sweep, f"{at(sweep)}/stop")

    def cancel(self, sweep: str) -> Sweep:
        """End a sweep at once; finished trials are kept."""
        return self._post(Sweep, f"{at(sweep)}/cancel")

    def resume(self, sweep: str, **changes: Any) -> Sweep:
        """Queue a sweep again that has ended.

        Args:
            sweep: The sweep's id.
            changes: Keys of the sweep with new values, such as `trials` and `max_seconds`.
        """
        return self._post(Sweep, f"{at(sweep)}/resume", data=plain_json(changes) if changes else None)

    def extend(
        self,
        sweep: str,
        *,
        dry_run: bool = False,
        noise: str | None = None,
        objective: str | None = None,
        repeats: int | None = None,
        noises: int | None = None,
    ) -> Extension:
        """Queue just the trials that a firm answer lacks; a dry run only says which."""
        asked = {"dry_run": dry_run or None, "noise": noise, "objective": objective}
        asked |= {"repeats": repeats, "noises": noises}
        return self._post(Extension, f"{at(sweep)}/extend", repeatable=dry_run, params=query(asked))

    def delete(self, sweep: str) -> None:
        """Delete a sweep that has ended, with all its trials."""
        self._http.ask("DELETE", at(sweep), params={"confirm": sweep})

    def spaces(self) -> list[dict[str, Any]]:
        """Return the search spaces of the service."""
        return self._read(list[dict[str, Any]], "/v1/spaces")

    def noises(self) -> list[dict[str, Any]]:
        """Return the noise scales of the service."""
        return self._read(list[dict[str, Any]], "/v1/noises")

    def merges(self) -> list[dict[str, Any]]:
        """Return the merges of the service."""
        return self._read(list[dict[str, Any]], "/v1/merges")

    def me(self) -> Me:
        """Return who one is to the service: user, role, quota and what of it is used."""
        return self._read(Me, "/v1/me")

    def _sent(self, spec: Any, kind: type[T], headers: Mapping[str, str], asked: Mapping[str, Any]) -> T:
        content, form = body(spec)
        headers = {**headers, "Content-Type": form}
        return self._post(kind, "/v1/sweeps", repeatable=True, data=content, headers=headers, params=query(asked))

    def _read(self, kind: type[T], path: str, asked: Mapping[str, Any] | None = None) -> T:
        return self._record(kind, self._http.ask("GET", path, params=query(asked or {})))

    def _post(self, kind: type[T], path: str, *, repeatable: bool = False, **content: Any) -> T:
        content.setdefault("headers", {"Content-Type": JSON})
        return self._record(kind, self._http.ask("POST", path, repeatable=repeatable, **content))

    def _record(self, kind: type[T], answer: Response) -> T:
        try:
            return TypeAdapter(kind).validate_json(answer.content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise self._other(f"{where}: {first['msg']}" if where else first["msg"]) from None

    def _other(self, why: str) -> ClientError:
        return ClientError(f"{self.url} answers, but is no sweeper service of this version: {why}")

    def _moved(self, new: str, old: str | None) -> None:
        if new == old:
            raise self._other("its pages do not come to an end")

    def _landed(self, sweep: str, after: str | None, asked: Mapping[str, Any]) -> tuple[Any, str | None, bool]:
        """Return the trials behind a cursor, the next cursor, and whether there are more by now."""
        import pyarrow as pa

        answer = self._http.ask(
            "GET", f"{at(sweep)}/trials", headers={"Accept": ARROW}, params=query({**asked, "after": after})
        )
        more = answer.headers.get("Sweeper-More") == "true"
        following = answer.headers.get("Sweeper-Next", after)
        try:
            with pa.ipc.open_stream(answer.content) as reader:
                table = reader.read_all()
        except (pa.ArrowInvalid, OSError) as error:
            raise self._other(f"no Arrow stream: {error}") from None
        if more:
            self._moved(following or "", after or "")
        return table, following, more

    def _seen(self, sweep: str) -> SweepDetail | None:
        try:
            return self.sweep(sweep)
        except ClientError as error:
            if not error.passing:
                raise
            return None

    def _fetch(self, path: str, file: Path) -> None:
        with self._http.opened(path, self._http.timeout) as answer, file.open("wb") as stream:
            for piece in answer.iter_content(1 << 20):
                stream.write(piece)
