"""Who may use the explorer: this machine's browser, with the address that was printed. No script runs in its pages.

The address carries a token once and it then lives in a cookie that other sites cannot send. A request must name the loopback
host (no other name that somebody points here), and a change must come from a form of these pages.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

COOKIE = "modeldiff_explore"
HOSTS = ("127.0.0.1", "localhost")
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def form_key(token: str) -> str:
    """What forms carry, so that no page of another site can send one."""
    return hmac.new(token.encode(), b"form", "sha256").hexdigest()


def guard(token: str) -> Middleware:
    """The middleware that every request goes through."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await _checked(request, handler)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    async def _checked(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.url.host not in HOSTS:
            return web.Response(status=403, text="This page is for this machine alone.\n")
        if given := request.query.get("token"):
            if not hmac.compare_digest(given.encode(), token.encode()):
                return _refused()
            entered = web.Response(status=303, headers={"Location": request.path})
            entered.set_cookie(COOKIE, token, httponly=True, samesite="Strict", path="/")
            return entered
        if not hmac.compare_digest(request.cookies.get(COOKIE, "").encode(), token.encode()):
            return _refused()
        if request.method == "POST":
            form = await request.post()
            if not hmac.compare_digest(str(form.get("key", "")).encode(), form_key(token).encode()):
                return web.Response(
                    status=403, text="This form is of an older page. Go back, load it again and repeat.\n"
                )
        elif request.method not in ("GET", "HEAD"):
            return web.Response(status=405, text="Only GET and POST.\n")
        return await handler(request)

    return check


def _refused() -> web.Response:
    return web.Response(
        status=403, text="Open the address that modeldiff-eval explore has printed; it carries a token.\n"
    )
