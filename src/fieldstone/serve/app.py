"""The server's app: routes, what stands before them, and what goes on beside them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer
from starlette.middleware.cors import CORSMiddleware

from fieldstone.recipes import choose_settings
from fieldstone.serve import api, chat, documents, health, opinions, problems
from fieldstone.serve.engine import Engine
from fieldstone.serve.guard import Guard
from fieldstone.serve.mcp import mount_mcp
from fieldstone.serve.page import mount_page
from fieldstone.serve.served import Access, Served
from fieldstone.settings import ServeSettings

ABOUT = """Questions answered from a folder of documents, with the sentence each answer stands on.

Every error has one shape, that of OpenAI's API. 429 and 503 say in `Retry-After` when to ask again."""


def create_app(
    engines: Mapping[str, Engine],
    access: Access | None = None,
    limits: ServeSettings | None = None,
    *,
    hosts: Sequence[str] = (),
    watch: bool = False,
) -> FastAPI:
    """An app that serves these workspaces by their names, the first one where none is said.

    `access` says who may do what; without it everyone may do everything. `hosts` are the names that the
    server goes by, where it goes by no other. With `watch` the folders that the workspaces were built from
    are followed. The engines are opened and closed with the app.
    """
    limits = limits or ServeSettings()
    served = Served(engines, access, limits, health.Metrics(engines.values()))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        going = [asyncio.create_task(engine.keep_fresh()) for engine in engines.values()]
        going += [asyncio.create_task(upkeep.run()) for upkeep in served.upkeep.values()]
        if watch:
            going += [asyncio.create_task(_followed(engine, served.stopping)) for engine in engines.values()]
        yield
        served.stop()
        for task in going:
            task.cancel()
        await asyncio.gather(*going, return_exceptions=True)
        await served.close()

    app = FastAPI(
        title="Fieldstone",
        description=ABOUT,
        version=version("fieldstone"),
        docs_url=None,  # these pages would load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.served = served
    problems.install(app)
    told: dict[int | str, dict[str, Any]] = {status: {"model": problems.Problem} for status in ("4XX", "5XX")}
    for routes in (api.routes, documents.routes, opinions.routes, chat.routes, health.routes):
        app.include_router(routes, responses=told, dependencies=[Depends(HTTPBearer(auto_error=False))])
    mount_mcp(app, engines, access)
    mount_page(app)
    if limits.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=limits.origins,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("Authorization", "Content-Type"),
        )
    upload_bytes = int(limits.upload_megabytes * 2**20)
    app.add_middleware(Guard, upload_bytes=upload_bytes, origins=limits.origins, hosts=hosts)
    app.add_middleware(health.Measured, served=served)
    return app


async def _followed(engine: Engine, stop: asyncio.Event) -> None:
    """Follow the folders of a workspace, by its own settings: they are written back to it."""
    from fieldstone.serve.watch import follow

    async def changed() -> None:
        await engine.refresh()

    settings = choose_settings(None, engine.workspace.stored_settings())
    await follow(engine.workspace, settings, changed, stop, engine.borrow)
