"""Tokens and sessions: shown once, stored hashed, good until they end."""

import time

import pytest
from sqlalchemy import select

from sweeper.client.models import Quota, Role
from sweeper.errors import SpecError
from sweeper.service.db import users as module
from sweeper.service.db.tables import sessions, tokens
from sweeper.service.db.users import SESSION_SECONDS, SESSIONS, Users
from tests.support.databases import opened


@pytest.fixture
def engine(database, tmp_path):
    return opened(tmp_path)


def test_a_token_names_its_user_role_and_quota(engine):
    users = Users(engine)
    shown, text = users.create("anna", Role.SUBMITTER, quota=Quota(running=2))
    user = users.check(text)
    assert (user.name, user.role, user.quota.running) == ("anna", Role.SUBMITTER, 2)
    assert text.startswith(f"swp_{shown.id}_")
    assert shown.expires is None


def test_the_secret_is_not_stored(engine):
    _, text = Users(engine).create("anna", Role.ADMIN)
    secret = text.split("_", 2)[2]
    with engine.connect() as connection:
        row = connection.execute(select(tokens)).one()
    assert secret not in str(row)
    assert len(row.hash) == 64


@pytest.mark.parametrize(
    "text", ["", "x", "swp_", "swp_000000000000_" + "a" * 43, "swp_ü", "swp_000000000000_" + "a" * 43 + "\n"]
)
def test_what_is_no_token_is_nobodys(engine, text):
    assert Users(engine).check(text) is None


def test_another_secret_is_nobodys(engine):
    users = Users(engine)
    shown, text = users.create("anna", Role.ADMIN)
    assert users.check(f"swp_{shown.id}_" + "a" * 43) is None
    assert users.check(text) is not None


def test_an_expired_token_is_nobodys(engine):
    now = [time.time()]
    users = Users(engine, lambda: now[0])
    _, text = users.create("anna", Role.VIEWER, expires=now[0] + 10)
    assert users.check(text) is not None
    now[0] += 11
    assert users.check(text) is None
    with pytest.raises(SpecError, match="in the future"):
        users.create("anna", Role.VIEWER, expires=now[0])


def test_a_revoked_token_is_nobodys_at_once(engine):
    users = Users(engine)
    shown, text = users.create("anna", Role.ADMIN)
    assert users.check(text) is not None
    users.revoke(shown.id)
    assert users.check(text) is None
    with pytest.raises(SpecError, match="was already revoked on"):
        users.revoke(shown.id)
    with pytest.raises(SpecError, match="there is no token 'x'"):
        users.revoke("x")


def test_a_token_that_another_process_revokes_ends_soon(engine, monkeypatch):
    users = Users(engine)
    shown, text = users.create("anna", Role.ADMIN)
    assert users.check(text) is not None
    Users(engine).revoke(shown.id)
    assert users.check(text) is not None  # not looked up again yet
    monkeypatch.setattr(module, "FRESH_SECONDS", 0.0)
    assert users.check(text) is None


def test_tokens_that_are_good_outlast_those_that_are_guessed(engine, monkeypatch):
    users = Users(engine)
    _, text = users.create("anna", Role.ADMIN)
    assert not users.recognizes(text)
    users.check(text)
    monkeypatch.setattr(module, "_CACHED", 5)
    for number in range(20):
        users.check(f"swp_{number:012x}_{'a' * 43}")
    assert len(users._cache) <= 5
    assert users.recognizes(text)
    assert not users.recognizes(text[:-1] + ("x" if text[-1] != "x" else "y"))


def test_a_quota_is_the_users_and_stays_until_another_is_given(engine):
    users = Users(engine)
    users.create("anna", Role.SUBMITTER, quota=Quota(trials=5))
    users.create("anna", Role.VIEWER)
    assert users.quota("anna").trials == 5
    users.create("anna", Role.VIEWER, quota=Quota(trials=7))
    assert users.quota("anna").trials == 7
    assert users.quota("nobody") == Quota()
    assert [t.user for t in users.tokens()] == ["anna"] * 3


def test_whether_an_admin_can_come_in(engine):
    users = Users(engine)
    assert not users.has_admin()
    shown, _ = users.create("root", Role.ADMIN)
    assert users.has_admin()
    users.revoke(shown.id)
    assert not users.has_admin()


@pytest.mark.parametrize("name", ["", "a b", "-a", "ä", "a" * 81, "a\n"])
def test_a_name_that_is_none(engine, name):
    with pytest.raises(SpecError, match="a user's name must"):
        Users(engine).create(name, Role.VIEWER)


# -- sessions ---------------------------------------------------------------------------------------------------------


def signed_in(users, token):
    session = users.sign_in(token)
    assert session is not None
    return session


def test_a_session_is_random_and_its_hash_is_stored(engine):
    users = Users(engine)
    _, text = users.create("anna", Role.SUBMITTER)
    one, two = signed_in(users, text), signed_in(users, text)
    assert (users.check_session(one).name, users.check_session(one).role) == ("anna", Role.SUBMITTER)
    assert one != two
    with engine.connect() as connection:
        rows = connection.execute(select(sessions)).all()
    assert len(rows) == 2
    assert not any(secret in str(rows) for secret in (one, two, text.split("_", 2)[2]))
    assert users.sign_in(text[:-1] + ("x" if text[-1] != "x" else "y")) is None
    assert [users.check_session(wrong) for wrong in ("", "x" * 43, "ü" * 43, text, rows[0].hash)] == [None] * 5


def test_a_session_ends_with_its_token(engine):
    now = [time.time()]
    users = Users(engine, lambda: now[0])
    shown, text = users.create("anna", Role.VIEWER)
    _, short = users.create("ben", Role.VIEWER, expires=now[0] + 10)
    kept, brief = signed_in(users, text), signed_in(users, short)
    now[0] += 11
    assert users.check_session(brief) is None
    assert users.check_session(kept) is not None
    users.revoke(shown.id)
    assert users.check_session(kept) is None


def test_a_session_ends_by_itself_and_by_signing_out(engine):
    now = [time.time()]
    users = Users(engine, lambda: now[0])
    _, text = users.create("anna", Role.VIEWER)
    left, kept = signed_in(users, text), signed_in(users, text)
    users.sign_out(left)
    assert users.check_session(left) is None
    assert users.check_session(kept) is not None
    now[0] += SESSION_SECONDS
    assert users.check_session(kept) is None
    assert users.check(text) is not None


def test_the_oldest_sessions_of_a_token_make_room(engine):
    now = [time.time()]
    users = Users(engine, lambda: now[0])
    _, text = users.create("anna", Role.VIEWER)
    _, other = users.create("ben", Role.VIEWER)
    bens, found = signed_in(users, other), []
    for _ in range(SESSIONS + 2):
        now[0] += 1
        found.append(signed_in(users, text))
    assert [users.check_session(s) is not None for s in found] == [False] * 2 + [True] * SESSIONS
    assert users.check_session(bens) is not None


def test_services_have_cookies_of_different_names(engine, tmp_path):
    names = {Users(engine).cookie, Users(engine).cookie, Users(opened(tmp_path)).cookie}
    assert len(names) == 2
