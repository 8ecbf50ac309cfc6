"""Users, their bearer tokens `swp_ID_SECRET` and their sessions; the database stores only the SHA-256 of secrets."""

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
"""Age at which a cached token is looked up again; a token that another process revokes still works until then."""
SESSION_SECONDS = 30 * 86400.0
"""How long a browser stays signed in, unless its token expires or is revoked."""
SESSIONS = 50
"""Sessions per token; the next one signs out the oldest."""
_CACHED = 4096
_SESSION = re.compile(r"[A-Za-z0-9_-]{43}")
_TOKEN = re.compile(r"swp_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,79}")


@dataclass(frozen=True)
class User:
    """The user who sends a request."""

    name: str
    role: Role
    quota: Quota = field(default_factory=Quota)

    @property
    def admin(self) -> bool:
        """Whether the user is an admin."""
        return self.role == Role.ADMIN

    def sees(self, entry: Row[Any]) -> bool:
        """Whether the user may see a sweep."""
        return self.admin or entry.owner == self.name or entry.shared

    def steers(self, entry: Row[Any]) -> bool:
        """Whether the user may change a sweep."""
        return self.admin or (self.role == Role.SUBMITTER and entry.owner == self.name)


LOCAL = User("local", Role.ADMIN, Quota(waiting=None))
"""The user of a service that needs no token."""


class Users:
    """The users of a service.

    Args:
        engine: Its database.
        clock: Returns seconds since 1970.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.time) -> None:
        self.engine, self.clock = engine, clock
        self._lock = threading.Lock()
        # token's id or session's hash -> time of the look-up, its row
        self._cache: dict[str, tuple[float, Row[Any] | None]] = {}
        with engine.connect() as connection:
            name = connection.execute(select(meta.c.value).where(meta.c.key == NAME)).scalar_one()
        self.cookie = f"sweeper_{name}"
        """Name of the session cookie; it differs per service, since cookies ignore ports."""

    def create(
        self, name: str, role: Role, expires: float | None = None, quota: Quota | None = None
    ) -> tuple[TokenView, str]:
        """Create a token, and its user if new.

        Args:
            name: Name of the user.
            role: What the token may do.
            expires: Time at which it expires; None never does.
            quota: New quota of the user; None keeps the old one.

        Returns:
            The token and its text, which is not stored and cannot be shown again.

        Raises:
            SpecError: The name is not valid, or the expiry lies in the past.
        """
        if not _NAME.fullmatch(name):
            raise SpecError(
                "a user's name must have up to 80 letters, digits and ._@-, beginning with a letter or digit, "
                f"got {name!r}"
            )
        now = self.clock()
        if expires is not None and expires <= now:
            raise SpecError(f"a token must expire in the future, got {moment(expires)}")
        token, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        with self.engine.begin() as connection:
            user = connection.execute(select(users.c.name).where(users.c.name == name)).one_or_none()
            if user is None:
                stored = (quota or Quota()).model_dump()
                connection.execute(insert(users).values(name=name, quota=stored, created=now))
            elif quota is not None:
                connection.execute(update(users).where(users.c.name == name).values(quota=quota.model_dump()))
            connection.execute(
                insert(tokens).values(id=token, user=name, role=role, hash=_hash(secret), created=now, expires=expires)
            )
        self._clear_cache()
        return self._view(token), f"swp_{token}_{secret}"

    def tokens(self) -> list[TokenView]:
        """Return all tokens, newest first."""
        query = _OF_TOKEN.order_by(tokens.c.created.desc(), tokens.c.id)
        with self.engine.connect() as connection:
            return [_view_of(row) for row in connection.execute(query)]

    def revoke(self, token: str) -> TokenView:
        """Revoke a token.

        Raises:
            SpecError: The token does not exist, or was revoked before.
        """
        with self.engine.begin() as connection:
            live = and_(tokens.c.id == token, tokens.c.revoked.is_(None))
            changed = connection.execute(update(tokens).where(live).values(revoked=self.clock())).rowcount
        self._clear_cache()
        view = self._view(token)
        if not changed:
            raise SpecError(f"token {token} was already revoked on {view.revoked:%Y-%m-%d %H:%M} UTC")
        return view

    def check(self, text: str) -> User | None:
        """Return the user of a token; None if it is unknown, expired or revoked."""
        parts = _TOKEN.fullmatch(text)
        row = self._look_up(parts[1], _OF_TOKEN.where(tokens.c.id == parts[1])) if parts else None
        if parts is None or row is None or not _matches(row, parts[2]):
            return None
        return self._user(row)

    def sign_in(self, text: str) -> str | None:
        """Begin a session and return the secret for the browser's cookie; None if the token is not valid."""
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

    def check_session(self, secret: str) -> User | None:
        """Return the user of a session; None if the session is unknown or over, or its token is no longer valid."""
        key = _hash(secret)
        row = self._look_up(key, _OF_SESSION.where(sessions.c.hash == key)) if _SESSION.fullmatch(secret) else None
        if row is None or row.until <= self.clock():
            return None
        return self._user(row)

    def sign_out(self, secret: str) -> None:
        """End a session, if it exists."""
        with self.engine.begin() as connection:
            connection.execute(delete(sessions).where(sessions.c.hash == _hash(secret)))
        self._clear_cache()

    def recognizes(self, text: str) -> bool:
        """Whether the cache holds this token or session, even if it may have expired since."""
        if parts := _TOKEN.fullmatch(text):
            _, row = self._cache.get(parts[1], (0.0, None))
            return row is not None and _matches(row, parts[2])
        return self._cache.get(_hash(text), (0.0, None))[1] is not None

    def _user(self, row: Row[Any]) -> User | None:
        if row.revoked is not None or (row.expires is not None and row.expires <= self.clock()):
            return None
        return User(row.user, Role(row.role), Quota.model_validate(row.quota))

    def quota(self, name: str) -> Quota:
        """Return a user's quota; the default for an unknown user."""
        with self.engine.connect() as connection:
            stored = connection.execute(select(users.c.quota).where(users.c.name == name)).scalar_one_or_none()
        return Quota.model_validate(stored or {})

    def has_admin(self) -> bool:
        """Whether an admin has a valid token."""
        live = or_(tokens.c.expires.is_(None), tokens.c.expires > self.clock())
        query = select(tokens.c.id).where(tokens.c.role == Role.ADMIN, tokens.c.revoked.is_(None), live).limit(1)
        with self.engine.connect() as connection:
            return connection.execute(query).one_or_none() is not None

    def _look_up(self, key: str, query: Select[Any]) -> Row[Any] | None:
        now = time.monotonic()
        cached = self._cache.get(key)
        if cached is not None and now - cached[0] < FRESH_SECONDS:
            return cached[1]
        with self.engine.connect() as connection:
            row = connection.execute(query).one_or_none()
        with self._lock:
            if len(self._cache) >= _CACHED:  # first drop unknown tokens: guesses must not evict valid ones
                self._cache = {k: v for k, v in self._cache.items() if v[1] is not None}
            if len(self._cache) >= _CACHED:
                self._cache.clear()
            self._cache[key] = (now, row)
        return row

    def _clear_cache(self) -> None:
        with self._lock:
            self._cache.clear()

    def _view(self, token: str) -> TokenView:
        with self.engine.connect() as connection:
            row = connection.execute(_OF_TOKEN.where(tokens.c.id == token)).one_or_none()
        if row is None:
            raise SpecError(f"there is no token {token!r}; `sweeper token list` shows all tokens")
        return _view_of(row)


_OF_TOKEN = select(tokens, users.c.quota).join(users, users.c.name == tokens.c.user)
_OF_SESSION = _OF_TOKEN.add_columns(sessions.c.expires.label("until")).join(sessions, sessions.c.token == tokens.c.id)


def _matches(row: Row[Any], secret: str) -> bool:
    return hmac.compare_digest(row.hash, _hash(secret))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _view_of(row: Row[Any]) -> TokenView:
    return TokenView(
        id=row.id,
        user=row.user,
        role=Role(row.role),
        created=moment(row.created),
        expires=moment(row.expires),
        revoked=moment(row.revoked),
        quota=Quota.model_validate(row.quota),
    )
