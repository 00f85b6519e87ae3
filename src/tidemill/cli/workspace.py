"""`tidemill init`, `status` and `doctor`."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import click

from tidemill.checks.check import CheckResult, Evidence, Verdict, overall
from tidemill.cli.show import emit, json_option, opened, table, workspace_options
from tidemill.core.settings import HELP, Origin, shown
from tidemill.core.values import Json, Value
from tidemill.datasets.versions import list_datasets
from tidemill.govern.audit import verify_audit
from tidemill.govern.workspace import Workspace, init_workspace
from tidemill.registry.models import list_models
from tidemill.server.supervisor import Running, read_running
from tidemill.store.upkeep import verify
from tidemill.tracking.runs import list_runs

FREE_BYTES_MIN = 1 << 30


class WorkspaceStatus(Value, frozen=True, kw_only=True):
    """What a workspace holds, and what serves it."""

    home: str
    project: str
    running: Running | None
    datasets: int
    models: int
    runs: int
    events: int


class ShownSetting(Value, frozen=True, kw_only=True):
    """A setting, where its value came from and what it means."""

    name: str
    value: Json
    origin: Origin
    help: str


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=".")
@json_option
def init(folder: Path, as_json: bool) -> None:
    """Make FOLDER a workspace, or bring an older one up to date."""
    with closing(init_workspace(folder)) as ws:
        serve = "tidemill up" if folder == Path() else f"tidemill up --home {folder}"
        emit({"home": str(ws.home)}, as_json=as_json, text=lambda: f"workspace {ws.home} is ready; serve it with: {serve}")


@click.command()
@click.option("--settings", "settings", is_flag=True, help="Show every setting and where its value came from.")
@workspace_options
@json_option
def status(settings: bool, home: Path | None, project: str | None, as_json: bool) -> None:
    """Show what a workspace holds and what serves it."""
    ws = opened(home, project)
    if settings:
        rows = [ShownSetting(name=n, value=v, origin=ws.loaded.origins[n], help=HELP[n]) for n, v in shown(ws.settings).items()]
        columns = ("setting", "value", "from", "meaning")
        emit(rows, as_json=as_json, text=lambda: table(columns, [(row.name, row.value, row.origin, row.help) for row in rows]))
        return
    found = WorkspaceStatus(
        home=str(ws.home),
        project=ws.project,
        running=read_running(ws.home),
        datasets=len(list_datasets(ws)),
        models=len(list_models(ws)),
        runs=len(list_runs(ws, limit=10_000)),
        events=verify_audit(ws).events,
    )
    emit(found, as_json=as_json, text=lambda: _status_text(found))


@click.command()
@workspace_options
@json_option
def doctor(home: Path | None, project: str | None, as_json: bool) -> int:
    """Look for trouble in a workspace: disk, catalog, objects, audit chain, processes. Exit code 1 when something is wrong."""
    ws = opened(home, project)
    results = [_disk(ws), _catalog(ws), _objects(ws), _audit(ws), _processes(ws)]
    mark = {"pass": "ok  ", "warn": "warn", "fail": "FAIL"}
    emit(results, as_json=as_json, text=lambda: "\n".join(f"{mark[r.verdict]}  {r.name}: {r.summary}" for r in results))
    return 1 if overall(results) == "fail" else 0


def _status_text(found: WorkspaceStatus) -> str:
    served = (
        f"up at {found.running.url}, predictions at {found.running.serve_url}" if found.running else "not running; start with: tidemill up"
    )
    holds = f"{found.datasets} datasets, {found.runs} runs, {found.models} models, {found.events} events"
    return f"workspace {found.home}, project {found.project}\n{served}\n{holds}"


def _disk(ws: Workspace) -> CheckResult:
    free = shutil.disk_usage(ws.state).free
    verdict: Verdict = "pass" if free >= FREE_BYTES_MIN else "warn" if free >= FREE_BYTES_MIN // 10 else "fail"
    evidence = Evidence(values={"free_bytes": float(free)}, thresholds={"free_bytes": float(FREE_BYTES_MIN)})
    return CheckResult(name="disk", verdict=verdict, summary=f"{free / 2**30:.1f} GiB free", evidence=evidence)


def _catalog(ws: Workspace) -> CheckResult:
    if ws.catalog.path is None:
        return CheckResult(name="catalog", verdict="pass", summary="PostgreSQL answers, its schema is this version's")
    with closing(sqlite3.connect(f"file:{ws.catalog.path}?mode=ro", uri=True)) as connection:
        word = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    sound = word == "ok"
    return CheckResult(
        name="catalog", verdict="pass" if sound else "fail", summary="SQLite file is sound" if sound else f"SQLite says: {word}"
    )


def _objects(ws: Workspace) -> CheckResult:
    report = verify(ws.objects)
    broken = ", ".join(report.corrupt[:3])
    summary = f"{report.objects} objects are what was stored" if report.ok else f"{len(report.corrupt)} objects are damaged: {broken}"
    return CheckResult(name="objects", verdict="pass" if report.ok else "fail", summary=summary)


def _audit(ws: Workspace) -> CheckResult:
    report = verify_audit(ws)
    summary = f"{report.events} events, unbroken" if report.verified else report.what
    return CheckResult(name="audit chain", verdict="pass" if report.verified else "fail", summary=summary)


def _processes(ws: Workspace) -> CheckResult:
    running = read_running(ws.home)
    summary = f"up at {running.url} with {len(running.children)} processes" if running else "not running"
    return CheckResult(name="processes", verdict="pass", summary=summary)
