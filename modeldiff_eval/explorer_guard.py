"""Who may use the explorer: this machine's browser, with the address that was printed. No script runs in its pages.

The address carries a token once and it then lives in a cookie that other sites cannot send. A request must name the loopback
host (no other name that somebody points here), and a change must come from a form of these pages.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Mapping

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.log import server_logger
from aiohttp.typedefs import Handler, Middleware

COOKIE = "modeldiff_explore"
"""Of a server it is this, ``_`` and the port: browsers keep one set of cookies for all ports of a host."""
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


def _no_mistake_of_a_client(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


log = server_logger.getChild("explorer")
"""What the server reports: faults of ours. Who sends what is no HTTP is answered with 400 and not reported."""
log.addFilter(_no_mistake_of_a_client)


def guard(token: str) -> Middleware:
    """The middleware that every request goes through."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await _checked(request, handler)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    async def _checked(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            address = request.url
        except ValueError:  # A host or port that is none.
            address = None
        if address is None or address.host not in HOSTS:
            return web.Response(status=403, text="This page is for this machine alone.\n")
        cookie = f"{COOKIE}_{address.port}"
        if given := request.query.get("token"):
            if not _same(given, token):
                return _refused()
            entered = web.Response(status=303, headers={"Location": request.path})
            entered.set_cookie(cookie, token, httponly=True, samesite="Strict", path="/")
            return entered
        if not _same(request.cookies.get(cookie, ""), token):
            return _refused()
        if request.method == "POST":
            try:
                form = await request.post()
            except (ValueError, LookupError):  # No boundary, an unknown encoding, or bytes that are not of it.
                return web.Response(status=400, text="This is not what a form of these pages sends.\n")
            if not _same(str(form.get("key", "")), form_key(token)):
                return web.Response(
                    status=403, text="This form is of an older page. Go back, load it again and repeat.\n"
                )
        elif request.method not in ("GET", "HEAD"):
            return web.Response(status=405, text="Only GET and POST.\n")
        return await handler(request)

    return check


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())


def _refused() -> web.Response:
    return web.Response(
        status=403, text="Open the address that modeldiff-eval explore has printed; it carries a token.\n"
    )
