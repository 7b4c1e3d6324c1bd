"""A pipeline inside FastAPI: uvicorn app:app, or on trio: hypercorn -k trio app:app.

The server owns the signals and the event loop; the pipeline lives as long as the application's lifespan.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from decimal import Decimal

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from settings import shop_transport
from shop import PrintingMailer, make_handler

from cdc_core import UNKNOWN, Pipeline, RunningPipeline, provision

totals: dict[int, Decimal] = {}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[dict[str, object]]:
    transport = shop_transport()
    await provision(transport)  # plan, then apply; raises PlanRefused(plan)
    handler = make_handler(totals, PrintingMailer())
    async with Pipeline(name="shop", transport=transport, handler=handler).running() as live:
        yield {"cdc": live}  # request.state.cdc; leaving the block drains, acknowledges and leaves


app = FastAPI(lifespan=lifespan)


@app.get("/healthz")
async def healthz(request: Request) -> JSONResponse:
    """Answer from memory: a probe must not hang with what it probes."""
    live: RunningPipeline = request.state.cdc
    known = [lag.lag_bytes for lag in live.lag if lag.lag_bytes is not UNKNOWN]
    body = {"health": live.health.as_dict(), "worst_known_lag_bytes": max(known, default=None)}
    return JSONResponse(body, 200 if live.health.ready else 503)


@app.get("/totals")
async def read_totals() -> dict[int, str]:
    """Show what the handler made of the events."""
    return {number: str(total) for number, total in totals.items()}
