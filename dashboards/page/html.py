"""HTML of the page, the app and the sign-in form, from the templates of this folder."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_HERE = Path(__file__).parent


@cache
def load_environment() -> Environment:
    """Return the template environment; it escapes all values except `Markup`."""
    return Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render_template(name: str, **values: object) -> str:
    """Return the text of a template of `templates/` with these values."""
    return load_environment().get_template(name).render(**values)


def read_asset(name: str) -> Markup:
    """Return the text of a stylesheet or script of this folder."""
    return Markup((_HERE / name).read_text(encoding="utf-8"))


def read_style() -> Markup:
    """Return the stylesheet of the app and of the sign-in form."""
    return read_asset("page.css") + read_asset("app.css")


def embed_json(text: str) -> Markup:
    """Return JSON for a script element, escaped so that it cannot end the element or start a comment."""
    return Markup(text.replace("</", "<\\/").replace("<!--", "<\\u0021--"))
