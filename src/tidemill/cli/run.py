"""`tidemill run`: what was executed, and what waits."""

from pathlib import Path

import click

from tidemill.catalog import jobs as queue
from tidemill.cli.show import emit, json_option, opened, table, workspace_options
from tidemill.tracking import runs


@click.group()
def run() -> None:
    """Runs: one execution of anything."""


@run.command("list")
@click.option("--experiment", help="Only runs of this experiment.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
@workspace_options
@json_option
def list_(experiment: str | None, limit: int, home: Path | None, project: str | None, as_json: bool) -> None:
    """List runs, newest first."""
    found = runs.list_runs(opened(home, project), experiment=experiment, limit=limit)
    columns = ("run", "experiment", "name", "kind", "status", "started")
    emit(found, as_json=as_json, text=lambda: table(columns, [(r.id, r.experiment, r.name, r.kind, r.status, r.started_at) for r in found]))


@run.command()
@click.argument("run_id")
@workspace_options
@json_option
def show(run_id: str, home: Path | None, project: str | None, as_json: bool) -> None:
    """Show one run: params, metrics, tags, files."""
    found = runs.read_run(opened(home, project), run_id)
    emit(found, as_json=as_json, text=lambda: _text(found))


@run.command()
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
@workspace_options
@json_option
def jobs(limit: int, home: Path | None, project: str | None, as_json: bool) -> None:
    """List jobs: work that waits, runs or has ended."""
    ws = opened(home, project)
    ws.require("tracking.read")
    with ws.catalog.reading() as tx:
        found = queue.list_jobs(tx, ws.project, limit=limit)
    columns = ("job", "kind", "state", "attempts", "queued", "error")
    emit(found, as_json=as_json, text=lambda: table(columns, [(j.id, j.kind, j.state, j.attempts, j.queued_at, j.error) for j in found]))


def _text(found: runs.Run) -> str:
    head = f"run {found.id}  {found.name} ({found.kind}) of {found.experiment}: {found.status} {found.message}".rstrip()
    parts = [(title, values) for title, values in (("params", found.params), ("metrics", found.metrics), ("tags", found.tags)) if values]
    blocks = [f"{title}\n{table(('key', 'value'), list(values.items()))}" for title, values in parts]
    files = (
        [f"files\n{table(('path', 'bytes', 'digest'), [(a.path, a.size_bytes, a.digest) for a in found.artifacts])}"]
        if found.artifacts
        else []
    )
    return "\n\n".join([head, *blocks, *files])
