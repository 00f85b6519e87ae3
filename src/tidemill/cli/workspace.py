"""`tidemill init` and `doctor`."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import click

from tidemill.checks.check import CheckResult, Evidence, Verdict, overall
from tidemill.cli.opening import opened, workspace_options
from tidemill.cli.show import emit, json_option
from tidemill.govern.audit import verify_audit
from tidemill.govern.workspace import Workspace, init_workspace
from tidemill.server.supervisor import read_running
from tidemill.store.upkeep import verify

FREE_BYTES_MIN = 1 << 30


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=".")
@json_option
def init(folder: Path, as_json: bool) -> None:
    """Make FOLDER a workspace, or bring an older one up to date."""
    with closing(init_workspace(folder)) as ws:
        serve = "tidemill up" if folder == Path() else f"tidemill up --home {folder}"
        emit({"home": str(ws.home)}, as_json=as_json, text=lambda: f"workspace {ws.home} is ready; serve it with: {serve}")


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
