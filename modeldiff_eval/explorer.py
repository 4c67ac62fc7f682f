"""A local page over one run: search its latents, see all examples, correct names, make the card again.

::

    serve(Path("runs/demo"), port=0)    # prints the address and stays until it is interrupted
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from markupsafe import Markup

from modeldiff_eval.errors import ModelDiffError, UsageError
from modeldiff_eval.explorer_data import NONE, Explored, Query
from modeldiff_eval.explorer_guard import form_key, guard, log
from modeldiff_eval.explorer_remake import Remake, taxonomy_of
from modeldiff_eval.explorer_review import FIELDS, Corrections
from modeldiff_eval.render_html import environment
from modeldiff_eval.resources import resource
from modeldiff_eval.review import annotation_of
from modeldiff_eval.taxonomy import Taxonomy

REVIEW = "review.csv"
MAX_BODY = 1 << 16
FIELD_CHARS = 2000


class Explorer:
    """The pages of one run. ``token`` is what a browser must bring."""

    def __init__(self, run: Path, *, token: str | None = None) -> None:
        self.run = run
        self.token = token or secrets.token_urlsafe(24)
        self.data = Explored(run)
        self.taxonomy = Taxonomy.load(taxonomy_of(run))
        self.corrections = Corrections(run / REVIEW, self.taxonomy)
        self.remake: Remake | None = None

    def application(self) -> web.Application:
        """The application, to serve or to test."""
        app = web.Application(middlewares=[guard(self.token), _errors(self._page)], client_max_size=MAX_BODY)
        app.router.add_get("/", self.table)
        app.router.add_get("/latent/{place:[0-9]{1,9}}", self.latent)
        app.router.add_post("/latent/{place:[0-9]{1,9}}", self.correct)
        app.router.add_get("/card", self.card)
        app.router.add_post("/card", self.make_card)
        app.router.add_get("/card.html", self.card_file)
        app.on_cleanup.append(self._end)
        return app

    async def table(self, request: web.Request) -> web.Response:
        """The latents that a query finds."""
        query = Query.of(request.query)
        page = await asyncio.to_thread(self.data.find, query)
        return self._page("explorer_table.html.j2", query=query, page=page, link=_linker(query))

    async def latent(self, request: web.Request) -> web.Response:
        """One latent with all its examples and the form that corrects its name."""
        return await self._latent(request, None)

    async def _latent(
        self, request: web.Request, problem: str | None, given: dict[str, str] | None = None
    ) -> web.Response:
        latent = self.data.latent(int(request.match_info["place"]))
        item = await asyncio.to_thread(self.data.evidence, latent)
        said = given or self.corrections.of(item)
        return self._page(
            "explorer_latent.html.j2", status=200 if problem is None else 400, latent=latent, examples=item.examples,
            said=said, problem=problem, saved="saved" in request.query,
        )  # fmt: skip

    async def correct(self, request: web.Request) -> web.Response:
        """Keep what a reader says of a latent."""
        form = await request.post()
        given = {name: str(form.get(name, ""))[:FIELD_CHARS] for name in FIELDS}
        latent = self.data.latent(int(request.match_info["place"]))
        item = self.data.evidence(latent)
        if not item.examples:
            return await self._latent(
                request, "The run kept no example of this latent, so a review could not be told apart.", given
            )
        try:
            self.corrections.keep(item, annotation_of(latent.row), given)
        except UsageError as error:
            return await self._latent(request, str(error), given)
        return web.Response(status=303, headers={"Location": f"/latent/{latent.place}?saved=1"})

    async def card(self, request: web.Request) -> web.Response:
        """Where the making of the card stands."""
        remake = self.remake
        if remake is not None and remake.code == 0:
            self.data, self.remake = await asyncio.to_thread(Explored, self.run), None
            return web.Response(status=303, headers={"Location": "/card?made=1"})
        return self._page("explorer_card.html.j2", remake=remake, made="made" in request.query)

    async def make_card(self, request: web.Request) -> web.Response:
        """Make the card again with the corrections."""
        if not len(self.corrections):
            raise UsageError("Nothing has been corrected yet.")
        if self.remake is None or self.remake.code is not None:
            self.remake = Remake(self.run, self.corrections.path)
        return web.Response(status=303, headers={"Location": "/card"})

    async def card_file(self, request: web.Request) -> web.StreamResponse:
        """The card itself, with the policy that stands in it."""
        path = self.run / "card.html"
        if not path.is_file():
            raise UsageError(f"There is no {path.name} in this run; modeldiff-eval render makes it.")
        policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
        return web.FileResponse(path, headers={"Content-Security-Policy": policy})

    def _page(self, template: str, *, status: int = 200, **shown: Any) -> web.Response:
        text = environment().get_template(template).render(
            css=Markup(resource("templates/explorer.css").read_text("utf-8").replace("</", "<\\/")),
            card=self.data.card, run=self.run.name, nowhere=NONE, nu_name=Markup("ν<sup>ε</sup>"), taxonomy=self.taxonomy,
            names={c.code: c.name for c in self.taxonomy.categories},
            corrections=len(self.corrections), key=form_key(self.token), review=REVIEW, **shown,
        )  # fmt: skip
        return web.Response(text=text, content_type="text/html", status=status)

    async def _end(self, _: web.Application) -> None:
        if self.remake is not None:
            self.remake.stop()


def _errors(page: Callable[..., web.Response]) -> Middleware:
    """What is wrong, as a page with the right status instead of a traceback."""

    @web.middleware
    async def show(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except UsageError as error:
            return page("explorer_error.html.j2", status=400, problem=str(error))
        except ModelDiffError as error:
            return page("explorer_error.html.j2", status=500, problem=str(error))
        except web.HTTPException as error:
            if error.status < 400:
                raise
            return page("explorer_error.html.j2", status=error.status, problem=f"{error.reason}: {request.path[:200]}")

    return show


def _linker(query: Query) -> Callable[..., str]:
    """Addresses of the table with some fields changed."""
    own = {name: value for name, value in query.model_dump(exclude_defaults=True).items() if value not in ("", None)}

    def link(**changed: Any) -> str:
        return "/?" + urlencode({**own, "page": 1} | changed)

    return link


def serve(run: Path, *, port: int, announce: Callable[[str], None]) -> None:
    """Serve on the loopback address until interrupted; ``announce`` gets the address with its token.

    Raises:
        UsageError: no finished run, or the port is taken.
    """
    explorer = Explorer(run)

    async def main() -> None:
        runner = web.AppRunner(explorer.application(), access_log=None, logger=log)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", port)
            await site.start()
            announce(f"http://127.0.0.1:{runner.addresses[0][1]}/?token={explorer.token}")
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    try:
        asyncio.run(main())
    except OSError as error:
        raise UsageError(
            f"Cannot listen on port {port}: {error.strerror or error}. Name another with --port."
        ) from error
