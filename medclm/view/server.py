"""What the page asks for. Only this machine's browser gets an answer, and only for the page's own requests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel

from medclm import reviews
from medclm.problems import DataError
from medclm.view.rows import FILTERS, Rows

PAGE = Path(__file__).parent / "page"
FILES = {"index.html": "text/html", "app.js": "text/javascript", "style.css": "text/css"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",  # images of patients stay out of the browser's cache
}


class Verdict(BaseModel):
    verdict: Literal["accept", "reject"]


def make_app(folder: Path, port: int) -> FastAPI:
    """port: the one it is served on; requests under any other name than this machine's are refused (a page elsewhere
    could point its own name at 127.0.0.1)."""
    rows = Rows(folder)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        origin = request.headers.get("origin")
        if request.headers.get("host") not in hosts:
            response = JSONResponse({"detail": "host: expected this machine's own name"}, 421)
        elif origin is not None and origin.removeprefix("http://") not in hosts:
            response = JSONResponse({"detail": "origin: expected this page"}, 403)
        else:
            response = await call_next(request)
        response.headers.update(HEADERS)
        return response

    def row(number: int) -> dict:
        try:
            return rows.read(number)
        except IndexError as error:
            raise HTTPException(404, str(error)) from None

    @app.get("/")
    def index() -> FileResponse:
        return page("index.html")

    @app.get("/page/{name}")
    def page(name: str) -> FileResponse:
        if name not in FILES:
            raise HTTPException(404, "no such file")
        return FileResponse(PAGE / name, media_type=FILES[name])

    @app.get("/favicon.ico")
    def icon() -> Response:
        return Response(status_code=204)  # browsers ask for one

    @app.get("/api/set")
    def describe() -> dict:
        return {"name": folder.resolve().name, "rows": len(rows), "values": rows.values()}

    @app.get("/api/find")
    def find(
        request: Request, at: int = 0, step: Annotated[Literal["here", "next", "previous"], Query()] = "here"
    ) -> dict:
        """The row at or after ``at`` (here), after it or before it that agrees with the filters, and its position among
        all that do. number is None where there is none."""
        filters = {name: value for name in FILTERS if (value := request.query_params.get(name))}
        found = rows.find(filters)
        position = int(np.searchsorted(found, at, side="right" if step == "next" else "left"))
        if step == "previous":
            position -= 1
        elif step == "here" and position == len(found):
            position -= 1
        number = int(found[position]) if 0 <= position < len(found) else None
        return {"number": number, "position": position, "total": len(found)}

    @app.get("/api/rows/{number}")
    def read(number: int) -> dict:
        found = row(number)
        del found["image"]
        return found | {"number": number, "verdict": rows.verdicts.get(found["id"])}

    @app.get("/api/rows/{number}/image")
    def image(number: int) -> Response:
        return Response(row(number)["image"]["bytes"], media_type="image/png")

    @app.post("/api/rows/{number}/verdict")
    def judge(number: int, verdict: Verdict) -> dict:
        if not 0 <= number < len(rows):
            raise HTTPException(404, f"row: expected 0 to {len(rows) - 1}, got {number}")
        id = rows.ids[number].as_py()
        try:
            reviews.append(folder, id, verdict.verdict, rows.hashes[number].as_py())
        except DataError as error:  # a full disk, another user's set
            raise HTTPException(507, str(error)) from None
        rows.verdicts[id] = verdict.verdict
        return rows.verdict_counts()

    return app
