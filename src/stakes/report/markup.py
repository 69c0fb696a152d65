"""How pages are made: everything escaped, one style sheet, one script, and a policy that lets in nothing else."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import TYPE_CHECKING, Any

from stakes.report.formatting import percent, points, prose, shown, signed, table_view, words

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, **values: Any) -> str:
    """Fill a template. All that comes from data or user is escaped."""
    return environment().get_template(template).render(**values)


def environment() -> Environment:
    """The templates with the filters that they use."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    made = Environment(
        loader=PackageLoader("stakes.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    script = _text("page.js")
    made.globals |= {
        "style_sheet": Markup(_text("page.css")),
        "script": Markup(script),
        "policy": policy(script),
        "table_view": table_view,
    }
    made.filters |= {
        "shown": shown,
        "percent": percent,
        "points": points,
        "signed": signed,
        "words": words,
        "prose": prose,
    }
    return made


def policy(script: str) -> str:
    """The content security policy of a page: its own script by hash, its own styles and pictures, and nothing else.

    Style attributes, which drawings need, can only be let in by 'unsafe-inline'.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _text(name: str) -> str:
    return (resources.files("stakes.report") / "templates" / name).read_text(encoding="utf-8")
