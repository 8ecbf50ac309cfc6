"""Client: the API of a service as methods with typed results."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sweeper.client.downloads import Downloads
from sweeper.client.encoding import at, body, filters, plain_json, query
from sweeper.client.events import follow
from sweeper.client.models import (
    Advice,
    Estimate,
    Event,
    Extension,
    Me,
    SettingsAdvice,
    Submitted,
    Sweep,
    SweepDetail,
    SweepPage,
)
from sweeper.client.transport import ClientError

if TYPE_CHECKING:
    import pyarrow as pa

    from sweeper.config.spec import SweepSpec

LOOK_SECONDS = 2.0
"""Interval between checks for new trials."""
PAGE_SWEEPS = 200
ARROW = "application/vnd.apache.arrow.stream"

T = TypeVar("T")


class Client(Downloads):
    """A sweep service.

    A client keeps connections open: use one per thread, and close it or use it in a `with` statement.

    Args:
        url: The service's address, such as `https://HOST:8000`; by default SWEEPER_SERVER.
        token: The token; by default SWEEPER_TOKEN, else the content of the file SWEEPER_TOKEN_FILE or
            `~/.config/sweeper/token`, which only its owner may read.
        timeout: Timeout of an answer [s]. Repeatable requests are tried six times within about 8 s.
        ca: File or folder of certificates to trust; by default the system's, or those of REQUESTS_CA_BUNDLE.
        insecure: Whether to trust the network: check no certificate, and send the token even unencrypted.

    Raises:
        SpecError: The address or the token is wrong, or other users can read the token's file.
    """

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
        """Submit a sweep; retries queue it once.

        Args:
            spec: A SweepSpec, of which only the set fields are sent; a mapping of its keys; the path of a YAML file; or
                YAML as text.
            name: Name of the sweep in lists.
            priority: Priority from -100 to 100; higher starts first.
            shared: Whether all users may see the sweep.
            webhook: URL to notify of the end.
            key: Idempotency-Key: repeated requests with the same key create one sweep. By default new for each call.

        Raises:
            ClientError: The service refuses the sweep; nothing is queued.
        """
        headers = {"Idempotency-Key": key or str(uuid.uuid4())}
        parameters = {"name": name, "priority": priority, "shared": shared, "webhook": webhook}
        return self._send_spec(spec, Submitted, headers, parameters)

    def estimate(self, spec: SweepSpec | Mapping[str, Any] | Path | str) -> Estimate:
        """Return the estimated cost of a sweep, based on earlier sweeps of its space; nothing is queued.

        Raises:
            ClientError: The service would refuse the sweep.
        """
        return self._send_spec(spec, Estimate, {}, {"dry_run": True})

    def sweep(self, sweep: str) -> SweepDetail:
        """Return a sweep with its spec and history."""
        return self._read(SweepDetail, at(sweep))

    def sweeps(
        self,
        *,
        state: str | Sequence[str] | None = None,
        owner: str | None = None,
        space: str | None = None,
    ) -> Iterator[Sweep]:
        """Yield the visible sweeps, newest first, optionally of a state, owner or space."""
        after: str | None = None
        while True:
            parameters = {"state": state, "owner": owner, "space": space, "after": after, "limit": PAGE_SWEEPS}
            page = self._read(SweepPage, "/v1/sweeps", parameters)
            yield from page.items
            if page.next is None:
                return
            self._check_cursor(page.next, after)
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
        """Return the finished trials, one row per trial, in the order in which they landed.

        Args:
            sweep: The sweep's id.
            where: Column -> value; only rows with these values.
            columns: Only these columns.
            outcome: Only trials with this outcome.
            config: Only trials of this configuration.
        """
        import pyarrow as pa

        # a repeated trial lands again: its last row counts
        read = columns if columns is None or "digest" in columns else [*columns, "digest"]
        parameters = filters(where, read, outcome, config)
        tables, after, more = list[Any](), None, True
        while more:
            table, after, more = self._read_trials(sweep, after, parameters)
            tables.append(table)
        trials = pa.concat_tables(tables)
        if "digest" not in trials.column_names:
            return trials
        last = {digest: row for row, digest in enumerate(trials["digest"].to_pylist())}
        if len(last) < trials.num_rows:
            trials = trials.take(sorted(last.values()))
        return trials if columns is None else trials.select(list(columns))

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
            follow: Whether to wait for further trials.
            where: Column -> value; only rows with these values.
            columns: Only these columns.
            outcome: Only trials with this outcome.
            config: Only trials of this configuration.
        """
        parameters, after = filters(where, columns, outcome, config), None
        while True:
            over = not follow or self.sweep(sweep).state.ended  # checked before the page, which then has all trials
            more = True
            while more:
                table, after, more = self._read_trials(sweep, after, parameters)
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
        parameters = {"batch_size": list(batch_sizes), "learning_rate": learning_rate, "momentum": momentum}
        parameters |= {"weight_decay": weight_decay, "objective": objective}
        return self._read(list[Advice], f"{at(sweep)}/recommendation", parameters)

    def recommend_settings(
        self,
        sweep: str,
        *,
        batch_sizes: Sequence[int] = (),
        learning_rate: float | None = None,
        momentum: float | None = None,
        weight_decay: float | None = None,
        objective: str | None = None,
    ) -> SettingsAdvice:
        """Return settings to use, one per batch size, as `sweeper recommend` prints them.

        Raises:
            ClientError: There are too few viable trials (status 409), or a value breaks its rule or is absurd.
        """
        parameters = {"batch_size": list(batch_sizes), "learning_rate": learning_rate, "momentum": momentum}
        parameters |= {"weight_decay": weight_decay, "objective": objective}
        return self._read(SettingsAdvice, f"{at(sweep)}/settings", parameters)

    def best(self, sweep: str) -> dict[str, Any]:
        """Return the best configuration so far, as `sweeper best --json` prints it.

        Raises:
            ClientError: The sweep has no viable trial yet (status 404).
        """
        return self._read(dict[str, Any], f"{at(sweep)}/best")

    def report(self, sweep: str) -> str:
        """Return the sweep's page as HTML that works offline."""
        return self._http.send("GET", f"{at(sweep)}/report").content.decode(errors="replace")

    def events(self, sweep: str | None = None, after: int | None = None) -> Iterator[Event]:
        """Yield the events of a sweep until its end, or of all sweeps without end; reconnect when a connection is lost.

        Args:
            sweep: The sweep's id; None follows all visible sweeps.
            after: Id of the last known event; the stream starts after it.

        Raises:
            ClientError: The service refuses the request, or was unreachable for two minutes.
        """
        return (event for event in follow(self._http, sweep, after) if event is not None)

    def wait(
        self, sweep: str, timeout: float | None = None, listener: Callable[[Event], None] = lambda _: None
    ) -> SweepDetail:
        """Wait until a sweep has ended, and return it.

        Args:
            sweep: The sweep's id.
            timeout: Longest wait [s].
            listener: Called with each event.

        Raises:
            TimeoutError: The sweep has not ended in time; it continues.
            ClientError: The service refuses the request, or was unreachable for two minutes.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while not (detail := self.sweep(sweep)).state.ended:
            for event in follow(self._http, sweep, None, until):
                if event is not None:
                    listener(event)
                # check the state in silence, since the stream may have lost the end
                elif (current := self._try_sweep(sweep)) is not None and current.state.ended:
                    return current
                if until is not None and time.monotonic() >= until:
                    raise TimeoutError(f"sweep {sweep} is {detail.state} after {timeout:g} s; it continues")
        return detail

    def stop(self, sweep: str) -> Sweep:
        """Stop a sweep: running trials finish, and no further ones start."""
        return self._post(Sweep, f"{at(sweep)}/stop")

    def cancel(self, sweep: str) -> Sweep:
        """End a sweep at once; finished trials are kept."""
        return self._post(Sweep, f"{at(sweep)}/cancel")

    def resume(self, sweep: str, **changes: Any) -> Sweep:
        """Queue an ended sweep again.

        Args:
            sweep: The sweep's id.
            changes: Keys of the spec with new values, such as `trials` and `max_seconds`.
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
        """Queue only the trials that a firm answer still needs; a dry run queues none."""
        parameters = {"dry_run": dry_run or None, "noise": noise, "objective": objective}
        parameters |= {"repeats": repeats, "noises": noises}
        return self._post(Extension, f"{at(sweep)}/extend", repeatable=dry_run, params=query(parameters))

    def delete(self, sweep: str) -> None:
        """Delete an ended sweep with all its trials."""
        self._http.send("DELETE", at(sweep), params={"confirm": sweep})

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
        """Return the token's user, role, quota and usage."""
        return self._read(Me, "/v1/me")

    def _send_spec(self, spec: Any, kind: type[T], headers: Mapping[str, str], parameters: Mapping[str, Any]) -> T:
        content, media = body(spec)
        headers = {**headers, "Content-Type": media}
        return self._post(kind, "/v1/sweeps", repeatable=True, data=content, headers=headers, params=query(parameters))

    def _read_trials(
        self, sweep: str, after: str | None, parameters: Mapping[str, Any]
    ) -> tuple[Any, str | None, bool]:
        """Return the trials after a cursor, the next cursor, and whether more trials follow."""
        import pyarrow as pa

        answer = self._http.send(
            "GET", f"{at(sweep)}/trials", headers={"Accept": ARROW}, params=query({**parameters, "after": after})
        )
        more = answer.headers.get("Sweeper-More") == "true"
        following = answer.headers.get("Sweeper-Next", after)
        try:
            with pa.ipc.open_stream(answer.content) as reader:
                table = reader.read_all()
        except (pa.ArrowInvalid, OSError) as error:
            raise self._unexpected(f"not an Arrow stream: {error}") from None
        if more:
            self._check_cursor(following or "", after or "")
        return table, following, more

    def _try_sweep(self, sweep: str) -> SweepDetail | None:
        try:
            return self.sweep(sweep)
        except ClientError as error:
            if not error.passing:
                raise
            return None
