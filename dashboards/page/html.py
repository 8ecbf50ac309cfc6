"""HTML of the page, the app and the sign-in form: the templates beside this module, filled with escaped values."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_HERE = Path(__file__).parent


@cache
def environment() -> Environment:
    """Return the templates; they escape each value that is no `Markup`."""
    return Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render_template(name: str, **values: object) -> str:
    """Return a template of `templates/`, filled with values."""
    return environment().get_template(name).render(**values)


def read_asset(name: str) -> Markup:
    """Return a stylesheet or script of this folder."""
    return Markup((_HERE / name).read_text(encoding="utf-8"))


def read_style() -> Markup:
    """Return the stylesheet of the app and of the sign-in form."""
    return read_asset("page.css") + read_asset("app.css")


def embed_json(text: str) -> Markup:
    """Return JSON as a script element holds it: no text in it ends the element or begins a comment."""
    return Markup(text.replace("</", "<\\/").replace("<!--", "<\\u0021--"))
