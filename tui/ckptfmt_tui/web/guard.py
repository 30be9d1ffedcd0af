"""Who may speak to the server: whoever holds the token of its address, from a page that the server itself gave.

A web site that the user visits can send requests to a port of this machine, and open web sockets to it, which no
same-origin rule keeps it from. It can also point a name of its own to 127.0.0.1. So `Host` must be this machine's own
name, `Origin` that of the page, and the path must begin with a token that only the printed address has. The token
stands in the path, not in a cookie: a browser sends the cookies of 127.0.0.1 to every port there, whoever listens.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

TOKEN_BYTES: Final = 24
_OWN_NAMES: Final = frozenset({"127.0.0.1", "localhost"})
HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Stand in every answer."""


def new_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def refusal(token: str, path: str, host: str | None, origin: str | None, *, is_socket: bool) -> str | None:
    """Why a request is refused; None where it may pass.

    Args:
        token: of the server.
        path: that is asked for.
        host: the header; one without a name is as good as none.
        origin: the header, which browsers send with every web socket and every request of a script.
        is_socket: whether a web socket is wanted.
    """
    if host is None or _name(host) not in _OWN_NAMES:
        return "this address is served to 127.0.0.1 and localhost only"
    if origin is None and is_socket:
        return "a web socket needs an Origin"
    if origin is not None and origin != f"http://{host}":
        return "another site asks"
    given = path.split("/")[1] if path.startswith("/") else ""
    # As bytes: the path may hold letters that are not ASCII, which `compare_digest` refuses as text.
    if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode()):
        return "the address lacks its token: use the whole one that 'ckptfmt tui --web' printed"
    return None


def policy(nonce: str, host: str) -> str:
    """The page's content security policy: nothing from elsewhere, no script but ours, no frame around it."""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src 'self' 'nonce-{nonce}'",
            "style-src 'self' 'unsafe-inline'",  # The terminal in the page sets its colours so.
            "font-src 'self'",
            "img-src 'self' data:",
            f"connect-src ws://{host}",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


def _name(host: str) -> str | None:
    try:
        return urlsplit(f"http://{host}").hostname
    except ValueError:
        return None
