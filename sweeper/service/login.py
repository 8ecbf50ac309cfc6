"""The form that puts a token into a cookie, so that pages can be looked at with a browser."""

from __future__ import annotations

import html
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.concurrency import run_in_threadpool

from .api import Asked
from .guard import COOKIE

router = APIRouter(include_in_schema=False)
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
_COOKIE_SECONDS = 30 * 86400
_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>sweeper</title>
<style>
body {{ font: 16px system-ui, sans-serif; max-width: 26rem; margin: 15vh auto; padding: 0 1rem }}
input, button {{ font: inherit; width: 100%; box-sizing: border-box; padding: .5rem; margin: .3rem 0 }}
p {{ color: #a11 }}
</style>
<h1>sweeper</h1>
<form method="post" action="/login">
<label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<input name="next" type="hidden" value="{next}">
<button>Go on</button>
</form>
<p role="alert">{message}</p>
</html>
"""


@router.get("/login")
async def show_login(next: Annotated[str, Query(max_length=2000)] = "/") -> Response:
    """Show the form."""
    return _page(next, "", 200)


@router.post("/login")
async def log_in(request: Request, api: Asked) -> Response:
    """Set the cookie where the token is good."""
    form = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=10)
    token, target = form.get("token", [""])[0].strip(), _local(form.get("next", ["/"])[0])
    if await run_in_threadpool(api.service.users.check, token) is None:
        return _page(target, "This token is unknown, expired or revoked.", 401)
    response = RedirectResponse(target, 303)
    response.set_cookie(
        COOKIE, token, _COOKIE_SECONDS, httponly=True, samesite="strict", secure=request.url.scheme == "https"
    )
    return response


@router.post("/logout")
async def log_out() -> Response:
    """Take the cookie away."""
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


def _page(target: str, message: str, status: int) -> Response:
    text = _PAGE.format(next=html.escape(_local(target)), message=html.escape(message))
    return HTMLResponse(text, status, {"Content-Security-Policy": _POLICY, "Cache-Control": "no-store"})


def _local(target: str) -> str:
    # another site's address would make this form lead there
    plain = target.startswith("/") and not target.startswith("//") and "\\" not in target and target.isprintable()
    return target if plain else "/"
