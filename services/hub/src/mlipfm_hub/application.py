"""The application: the API, MLflow's dialect for reading, pages; behind the border. `uvicorn --factory mlipfm_hub.application:application`."""

from __future__ import annotations

import os
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from mlipfm_interfaces.asgi import Refused
from mlipfm_interfaces.errors import MlipfmError
from sqlalchemy import text
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from . import api, mlflow_reads, pages
from .border import Border, is_page
from .services import Services, admit_owner, open_services
from .settings import from_environment
from .trials import Trials

FOLDER = "MLIPFM_HUB_FOLDER"
ROUTERS = (api.router, mlflow_reads.router, pages.router)


def application() -> Border:
    """The hub on the folder in $MLIPFM_HUB_FOLDER; nothing that it writes is readable by others."""
    os.umask(0o077)
    services = open_services(from_environment(Path(os.environ[FOLDER])))
    admit_owner(services)
    return build(services)


def build(services: Services) -> Border:
    """The hub from its parts."""
    app = FastAPI(title="mlipfm hub", version="1", openapi_url="/api/v1/openapi.json", docs_url=None, redoc_url=None)
    app.state.services = services
    app.state.trials = Trials(services.settings.folder / "spool")
    for router in ROUTERS:
        app.include_router(router)
    _add_health(app, services)
    _add_errors(app)
    border = Border(app, services.settings, services.users, pages.failed, methods_of)
    app.state.requests = border.requests
    return border


def methods_of(path: str) -> set[str]:
    """Return the methods that a path of the API or of pages answers."""
    scope = {"type": "http", "method": "GET", "path": path, "root_path": "", "headers": []}
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, Route)]
    found = [route for route in routes if route.matches(scope)[0] is not Match.NONE]
    return {method for route in found for method in route.methods or ()}


def _add_health(app: FastAPI, services: Services) -> None:
    @app.get("/health", include_in_schema=False)
    def health() -> PlainTextResponse:
        with services.database.reading() as connection:
            connection.execute(text("SELECT 1"))
        return PlainTextResponse("OK")

    @app.get("/metrics", include_in_schema=False)
    def metrics() -> PlainTextResponse:
        """In the text format of Prometheus."""
        lines = ["# TYPE mlipfm_hub_requests_total counter"]
        lines += [f'mlipfm_hub_requests_total{{status="{status}"}} {count}' for status, count in sorted(app.state.requests.items())]
        names = services.registry.names()
        lines += ["# TYPE mlipfm_hub_models gauge", f"mlipfm_hub_models {len(names)}"]
        return PlainTextResponse("\n".join(lines) + "\n")


def _add_errors(app: FastAPI) -> None:
    """One line for every refusal, without paths or stacks."""

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return _answer(request, error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body")[:100]
        return _answer(request, Refused(400, "INVALID_PARAMETER_VALUE", f"{place}: {first['msg']}"))

    @app.exception_handler(HTTPException)
    async def failed(request: Request, error: HTTPException) -> Response:
        code = "RESOURCE_DOES_NOT_EXIST" if error.status_code == 404 else "REFUSED"
        answer = _answer(request, Refused(error.status_code, code, str(error.detail)))
        if error.status_code == 405:
            answer.headers["allow"] = ", ".join(sorted(methods_of(request.url.path)))
        return answer

    @app.exception_handler(MlipfmError)
    async def own(request: Request, error: MlipfmError) -> Response:
        return _answer(request, Refused(422, error.code.upper().replace("-", "_"), error.what))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        return _answer(request, Refused(500, "INTERNAL_ERROR", "this failed in the hub; its log says how"))


def _answer(request: Request, refusal: Refused) -> Response:
    """JSON for programs, a page for people."""
    if is_page(request.url.path):
        return Response(pages.failed(refusal.status, refusal.message), refusal.status, media_type="text/html")
    return JSONResponse({"error_code": refusal.code, "message": refusal.message}, refusal.status)
