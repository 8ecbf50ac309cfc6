"""Users, their bearer tokens `swp_ID_SECRET` and their sessions: the database holds the SHA-256 of secrets only."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, Row, Select, and_, delete, insert, or_, select, update

from sweeper.client.models import Quota, Role, TokenView, moment
from sweeper.errors import SpecError
from sweeper.service.db.tables import NAME, meta, sessions, tokens, users

FRESH_SECONDS = 3.0
"""For so long a token is not looked up again: a token that another process revokes works that much longer."""
SESSION_SECONDS = 30 * 86400.0
"""For so long a browser stays signed in; its token's end and its being revoked count all the same."""
SESSIONS = 50
"""Browsers that are signed in with one token; the next one signs out the oldest."""
_KEPT = 4096
_SESSION = re.compile(r"[A-Za-z0-9_-]{43}")
_TOKEN = re.compile(r"swp_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,79}")


@dataclass(frozen=True)
class User:
    """Who asks."""

    name: str
    role: Role
    quota: Quota = field(default_factory=Quota)

    @property
    def admin(self) -> bool:
        """Whether everything is allowed."""
        return self.role == Role.ADMIN

    def sees(self, entry: Row[Any]) -> bool:
        """Whether the user may see a sweep."""
        return self.admin or entry.owner == self.name or entry.shared

    def steers(self, entry: Row[Any]) -> bool:
        """Whether the user may change a sweep."""
        return self.admin or (self.role == Role.SUBMITTER and entry.owner == self.name)


LOCAL = User("local", Role.ADMIN, Quota(waiting=None))
"""Who asks where no token is needed."""


class Users:
    """The users of a service.

    Args:
        engine: Its database.
        clock: Seconds since 1970.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.time) -> None:
        self.engine, self.clock = engine, clock
        self._lock = threading.Lock()
        # token's id or session's hash -> when it was looked up, its row
        self._seen: dict[str, tuple[float, Row[Any] | None]] = {}
        with engine.connect() as connection:
            name = connection.execute(select(meta.c.value).where(meta.c.key == NAME)).scalar_one()
        self.cookie = f"sweeper_{name}"
        """Name of the cookie that holds a session: cookies know no port, so each service has its own."""

    def create(
        self, name: str, role: Role, expires: float | None = None, quota: Quota | None = None
    ) -> tuple[TokenView, str]:
        """Make a token, and its user where there is none.

        Args:
            name: Of the user.
            role: What the token may do.
            expires: When it ends.
            quota: The user's from now on, None leaves it.

        Returns:
            The token, and its text, which nobody can tell again.

        Raises:
            SpecError: The name cannot be one, or the time is over.
        """
        if not _NAME.fullmatch(name):
            raise SpecError(f"a user's name must be up to 80 letters, digits and ._@- and begin with one, got {name!r}")
        now = self.clock()
        if expires is not None and expires <= now:
            raise SpecError(f"a token must expire later than now, got {moment(expires)}")
        token, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        with self.engine.begin() as connection:
            known = connection.execute(select(users.c.name).where(users.c.name == name)).one_or_none()
            if known is None:
                stored = (quota or Quota()).model_dump()
                connection.execute(insert(users).values(name=name, quota=stored, created=now))
            elif quota is not None:
                connection.execute(update(users).where(users.c.name == name).values(quota=quota.model_dump()))
            connection.execute(
                insert(tokens).values(id=token, user=name, role=role, hash=_hash(secret), created=now, expires=expires)
            )
        self._forget()
        return self._view(token), f"swp_{token}_{secret}"

    def tokens(self) -> list[TokenView]:
        """Return all tokens, the newest first."""
        query = _OF_TOKEN.order_by(tokens.c.created.desc(), tokens.c.id)
        with self.engine.connect() as connection:
            return [_shown(row) for row in connection.execute(query)]

    def revoke(self, token: str) -> TokenView:
        """End a token.

        Raises:
            SpecError: There is none, or it was revoked before.
        """
        with self.engine.begin() as connection:
            live = and_(tokens.c.id == token, tokens.c.revoked.is_(None))
            changed = connection.execute(update(tokens).where(live).values(revoked=self.clock())).rowcount
        self._forget()
        shown = self._view(token)
        if not changed:
            raise SpecError(f"token {token} was revoked on {shown.revoked:%Y-%m-%d %H:%M} UTC")
        return shown

    def check(self, text: str) -> User | None:
        """Return whose token this is; None where it is none, or not any more."""
        parts = _TOKEN.fullmatch(text)
        row = self._looked_up(parts[1], _OF_TOKEN.where(tokens.c.id == parts[1])) if parts else None
        if parts is None or row is None or not _matches(row, parts[2]):
            return None
        return self._user(row)

    def sign_in(self, text: str) -> str | None:
        """Begin a session; returns the secret that the browser keeps, None where the token is not good."""
        user, parts = self.check(text), _TOKEN.fullmatch(text)
        if user is None or parts is None:
            return None
        now, secret, of_token = self.clock(), secrets.token_urlsafe(32), sessions.c.token == parts[1]
        values = {"hash": _hash(secret), "token": parts[1], "created": now, "expires": now + SESSION_SECONDS}
        newest = select(sessions.c.hash).where(of_token).order_by(sessions.c.created.desc()).limit(SESSIONS - 1)
        with self.engine.begin() as connection:
            kept = connection.scalars(newest).all()
            old = or_(sessions.c.expires <= now, and_(of_token, sessions.c.hash.not_in(kept)))
            connection.execute(delete(sessions).where(old))
            connection.execute(insert(sessions).values(**values))
        return secret

    def signed_in(self, secret: str) -> User | None:
        """Return whose session this is; None where it is none, it has ended or its token is not good any more."""
        key = _hash(secret)
        row = self._looked_up(key, _OF_SESSION.where(sessions.c.hash == key)) if _SESSION.fullmatch(secret) else None
        if row is None or row.until <= self.clock():
            return None
        return self._user(row)

    def sign_out(self, secret: str) -> None:
        """End a session, where it is one."""
        with self.engine.begin() as connection:
            connection.execute(delete(sessions).where(sessions.c.hash == _hash(secret)))
        self._forget()

    def remembered(self, text: str) -> bool:
        """Whether this was a token or a session when it was looked up last, by what is in memory."""
        if parts := _TOKEN.fullmatch(text):
            _, row = self._seen.get(parts[1], (0.0, None))
            return row is not None and _matches(row, parts[2])
        return self._seen.get(_hash(text), (0.0, None))[1] is not None

    def _user(self, row: Row[Any]) -> User | None:
        if row.revoked is not None or (row.expires is not None and row.expires <= self.clock()):
            return None
        return User(row.user, Role(row.role), Quota.model_validate(row.quota))

    def quota(self, name: str) -> Quota:
        """Return what a user may have."""
        with self.engine.connect() as connection:
            found = connection.execute(select(users.c.quota).where(users.c.name == name)).scalar_one_or_none()
        return Quota.model_validate(found or {})

    def has_admin(self) -> bool:
        """Whether there is a token of an admin that works."""
        live = or_(tokens.c.expires.is_(None), tokens.c.expires > self.clock())
        query = select(tokens.c.id).where(tokens.c.role == Role.ADMIN, tokens.c.revoked.is_(None), live).limit(1)
        with self.engine.connect() as connection:
            return connection.execute(query).one_or_none() is not None

    def _looked_up(self, key: str, query: Select[Any]) -> Row[Any] | None:
        now = time.monotonic()
        known = self._seen.get(key)
        if known is not None and now - known[0] < FRESH_SECONDS:
            return known[1]
        with self.engine.connect() as connection:
            row = connection.execute(query).one_or_none()
        with self._lock:
            if len(self._seen) >= _KEPT:  # those who guess do not drive out the others
                self._seen = {k: v for k, v in self._seen.items() if v[1] is not None}
            if len(self._seen) >= _KEPT:
                self._seen.clear()
            self._seen[key] = (now, row)
        return row

    def _forget(self) -> None:
        with self._lock:
            self._seen.clear()

    def _view(self, token: str) -> TokenView:
        with self.engine.connect() as connection:
            row = connection.execute(_OF_TOKEN.where(tokens.c.id == token)).one_or_none()
        if row is None:
            raise SpecError(f"there is no token {token!r}; `sweeper token list` shows them")
        return _shown(row)


_OF_TOKEN = select(tokens, users.c.quota).join(users, users.c.name == tokens.c.user)
_OF_SESSION = _OF_TOKEN.add_columns(sessions.c.expires.label("until")).join(sessions, sessions.c.token == tokens.c.id)


def _matches(row: Row[Any], secret: str) -> bool:
    return hmac.compare_digest(row.hash, _hash(secret))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _shown(row: Row[Any]) -> TokenView:
    return TokenView(
        id=row.id,
        user=row.user,
        role=Role(row.role),
        created=moment(row.created),
        expires=moment(row.expires),
        revoked=moment(row.revoked),
        quota=Quota.model_validate(row.quota),
    )
