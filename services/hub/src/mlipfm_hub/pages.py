"""Pages for people, made on the server: models and their cards, the leaderboard, lineage, data, and a place to try a model. They work without
scripts, but for the turning picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader, select_autoescape
from mlipfm_interfaces.asgi import Refused, absent, bad

from . import comparison, scaling, summaries
from .api import Admin, Hub, Name, Number, Reader, who
from .audit import entries
from .border import COOKIE, form_of
from .users import HOURS

router = APIRouter(include_in_schema=False)

_STATIC = Path(__file__).parent / "static"
_FILES = {"hub.css": "text/css", "try.js": "text/javascript", "3Dmol-min.js": "text/javascript", "page.css": "text/css"}
_templates = Environment(loader=PackageLoader("mlipfm_hub"), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True)
_templates.filters |= {"figure": summaries.figure, "interval": summaries.interval, "short": lambda digest: digest[:12]}


def page(template: str, request: Request | None, status: int = 200, **given: Any) -> HTMLResponse:
    """A page with what all have: who is signed in, and where one is."""
    person = getattr(request.state, "person", None) if request is not None else None
    here = request.url.path if request is not None else ""
    return HTMLResponse(_templates.get_template(template).render(person=person, here=here, **given), status)


def failed(status: int, line: str) -> bytes:
    """The page of a refusal."""
    return bytes(page("failed.html", None, status, title=f"Error {status}", line=line, code=status).body)


@router.get("/static/{name}")
def static(name: str) -> Response:
    if name not in _FILES:
        raise absent("there is no such file")
    if name == "page.css":
        import mlipfm_interfaces

        return FileResponse(Path(next(iter(mlipfm_interfaces.__path__))) / name, media_type="text/css")
    return FileResponse(_STATIC / name, media_type=_FILES[name])


@router.get("/login")
def login_page(request: Request, hub: Hub, key: str = "") -> Response:
    """The form; with the key that `mlipfm hub up` prints, straight in, to look."""
    if key:
        return _signed_in(hub, key, wanted="read")
    return page("login.html", request, title="Sign in")


@router.post("/login")
async def login(request: Request, hub: Hub) -> Response:
    return _signed_in(hub, form_of(await request.body()).get("token", ""))


@router.post("/logout")
async def logout(request: Request, person: Reader, hub: Hub) -> Response:
    from .border import session_key

    hub.users.close_session(session_key(request.headers.get("cookie", "")))
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(COOKIE)
    return answer


@router.get("/")
def front(request: Request, person: Reader, hub: Hub, element: str = "", level: str = "", q: str = "") -> Response:
    """All models, of which one sees elements, levels, errors and speed."""
    found = [summaries.overview(hub.registry, name) for name in hub.registry.names()]
    shown = [row for row in found if summaries.matches(row, element, level, q)]
    return page("models.html", request, title="Models", rows=shown, total=len(found), element=element, level=level, q=q,
                levels=sorted({one for row in found for one in row["levels"]}))  # fmt: skip


@router.get("/models/{name}")
def model(request: Request, name: Name, person: Reader, hub: Hub) -> Response:
    """Versions, aliases and their history."""
    if name not in hub.registry.names():
        raise absent(f"there is no model {name}")
    versions = [summaries.card(hub.registry, row) for row in reversed(hub.registry.versions(name))]
    return page(
        "model.html",
        request,
        title=name,
        name=name,
        versions=versions,
        aliases=hub.registry.aliases(name),
        history=hub.registry.history(name),
    )


@router.get("/models/{name}/{number}")
def version(request: Request, name: Name, number: Number, person: Reader, hub: Hub) -> Response:
    """The card of a version."""
    row = hub.registry.version(name, number)
    aliases = [alias for alias, promotion in hub.registry.aliases(name).items() if promotion["version"] == number]
    return page("version.html", request, title=f"{name}/{number}", v=summaries.card(hub.registry, row), aliases=aliases,
                lineage=summaries.lineage(hub.registry, row))  # fmt: skip


@router.get("/leaderboard")
def leaderboard(
    request: Request, person: Reader, hub: Hub, metric: str = "", data: str = "", everything: Annotated[bool, Query(alias="all")] = False
) -> Response:
    """Errors of all models on one set, best first, with intervals and failures."""
    board = summaries.leaderboard(hub.registry, metric, data, everything)
    return page("leaderboard.html", request, title="Leaderboard", everything=everything, **board)


@router.get("/data")
def data_page(request: Request, person: Reader, hub: Hub) -> Response:
    """Which data trained and tested which models."""
    return page("data.html", request, title="Data", rows=summaries.data_sets(hub.registry))


@router.get("/compare")
def compare_page(request: Request, person: Reader, hub: Hub, model: Annotated[list[str] | None, Query()] = None) -> Response:
    """Versions side by side, and their runs in MLflow."""
    models = model or []
    cards = comparison.chosen(hub.registry, models)
    address = hub.settings.mlflow.rstrip("/")
    runs = comparison.mlflow_runs(address, [card["digest"] for card in cards]) if address and cards else None
    choices = [f"{name}/{row['number']}" for name in hub.registry.names() for row in reversed(hub.registry.versions(name))]
    return page("compare.html", request, title="Compare models", cards=cards, models=models, runs=runs, choices=choices,
                sections=comparison.compare(cards), most=comparison.MOST)  # fmt: skip


@router.get("/scaling")
def scaling_page(request: Request, person: Reader, hub: Hub, sweep: str = "", loss: str = "", axis: str = "", group: str = "") -> Response:
    """Points, laws and held-out runs of a sweep."""
    names = [row["name"] for row in hub.sweeps.list()]
    if not names:
        return page("scaling.html", request, title="Scaling laws", names=names)
    row, found = hub.sweeps.latest(sweep or names[-1])
    return page("scaling.html", request, title="Scaling laws", names=names, row=row, **scaling.view(hub.registry, found, loss, axis, group))


@router.get("/people")
def people(request: Request, person: Admin, hub: Hub) -> Response:
    """Users, and the latest entries of the log."""
    with hub.database.reading() as connection:
        latest = entries(connection, 50)
    return page("people.html", request, title="People", users=hub.users.list(), entries=latest)


@router.get("/try")
def try_page(request: Request, person: Reader, hub: Hub, model: str = "") -> Response:
    return _try(request, hub, {"model": model or _first(hub), "do": "relax", "format": "smiles", "text": "CCO"})


@router.post("/try")
async def try_model(request: Request, person: Reader, hub: Hub) -> Response:
    """Energy, forces, relaxation or short dynamics of a structure that was typed or dropped."""
    form = form_of(await request.body())
    task: dict[str, Any] = {key: form.get(key, "") for key in ("format", "text", "do", "level")}
    try:
        if task["do"] not in ("energy", "relax", "dynamics"):
            raise bad("choose what to do")
        task |= {key: int(form[key]) for key in ("charge", "multiplicity") if form.get(key)}
        task |= {"steps": int(form.get("steps") or 100), "kelvin": float(form.get("kelvin") or 300)}
        found = await request.app.state.trials.run(hub.registry, form.get("model", ""), task)
    except ValueError:
        return _try(request, hub, form, error="charge, multiplicity, steps and temperature are numbers", status=400)
    except Refused as refusal:
        return _try(request, hub, form, error=refusal.message, status=refusal.status)
    return _try(request, hub, form, found=found, scene=json.dumps(found))


def _try(request: Request, hub: Any, form: dict[str, str], status: int = 200, **given: Any) -> Response:
    choices = [f"{name}@{alias}" for name in hub.registry.names() for alias in hub.registry.aliases(name)]
    choices += [f"{name}/{row['number']}" for name in hub.registry.names() for row in reversed(hub.registry.versions(name))]
    return page("try.html", request, status, title="Try a model", choices=choices, form=form, csrf=who(request).csrf, **given)


def _first(hub: Any) -> str:
    named = [f"{name}@{alias}" for name in hub.registry.names() for alias in hub.registry.aliases(name)]
    return named[0] if named else ""


def _signed_in(hub: Any, token: str, wanted: str = "") -> Response:
    opened = hub.users.open_session(token) if token else None
    if opened is None or (wanted and opened[1].role != wanted):
        raise Refused(401, "UNAUTHENTICATED", "this token is not known here: it may have ended, or the hub was started anew")
    answer = RedirectResponse("/", 303)
    answer.set_cookie(COOKIE, opened[0], max_age=HOURS * 3600, httponly=True, samesite="strict", secure=hub.settings.is_encrypted)
    return answer
