"""What a browser is shown that is not logged in, and one that just was."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

from starlette.responses import HTMLResponse

from vecserver.control.problems import CODE_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Scope

    from vecserver.wire.errors import VecServerError

__all__ = ["logged_in_page", "login_page"]

_HEADERS: Final = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
_FRAME: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">{head}
<title>vecserver</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.6 system-ui, sans-serif; max-width: 36rem; margin: 18vh auto; padding: 0 1rem }}
code {{ background: #8883; border-radius: 4px; padding: .1em .35em }}
</style></head>
<body><h1>vecserver</h1>{body}</body></html>
"""
_HOW: Final = """<p>{why}</p>
<p>To log in, open the link that the server printed when it started, or run <code>vecserver login</code> on its machine
for a fresh one. A link is good once, and for ten minutes.</p>"""


def login_page(error: VecServerError, scope: Scope, headers: Mapping[str, str]) -> HTMLResponse:
    """How to log in, in the place of a problem, for people."""
    scope[CODE_KEY] = error.code
    why = "This browser is not logged in." if "link" not in error.details else error.message
    page = _FRAME.format(head="", body=_HOW.format(why=escape(why)))
    return HTMLResponse(page, error.http_status, {**_HEADERS, **headers})


def logged_in_page(to: str) -> HTMLResponse:
    """Leads on to the page.

    By itself and not by a redirect: a browser that followed the link from another site's page would not send the new
    cookie to where a redirect leads.
    """
    target = escape(to, quote=True)
    return HTMLResponse(
        _FRAME.format(
            head=f'<meta http-equiv="refresh" content="0;url={target}">',
            body=f'<p>Logged in. <a href="{target}">To the page</a></p>',
        ),
        headers=_HEADERS,
    )
