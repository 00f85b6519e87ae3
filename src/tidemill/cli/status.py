"""`tidemill status`: what a workspace holds, what serves it, what takes its disk."""

from pathlib import Path

import click

from tidemill.automate.disk import disk_use
from tidemill.cli.opening import opened, workspace_options
from tidemill.cli.run_text import disk_text
from tidemill.cli.show import emit, json_option, table
from tidemill.core.settings import HELP, Origin, shown
from tidemill.core.values import Json, Value
from tidemill.datasets.versions import list_datasets
from tidemill.govern.audit import verify_audit
from tidemill.registry.models import list_models
from tidemill.server.supervisor import Running, read_running
from tidemill.serving.config import WorkerState, read_states
from tidemill.tracking.runs import list_runs


class WorkspaceStatus(Value, frozen=True, kw_only=True):
    """What a workspace holds, and what serves it. serving: what its serving workers say of themselves, by index."""

    home: str
    project: str
    running: Running | None
    datasets: int
    models: int
    runs: int
    events: int
    serving: dict[int, WorkerState]


class ShownSetting(Value, frozen=True, kw_only=True):
    """A setting, where its value came from and what it means."""

    name: str
    value: Json
    origin: Origin
    help: str


@click.command()
@click.option("--settings", "settings", is_flag=True, help="Show every setting and where its value came from.")
@click.option("--disk", is_flag=True, help="Show what takes how much disk, the largest first.")
@workspace_options
@json_option
def status(settings: bool, disk: bool, home: Path | None, project: str | None, as_json: bool) -> None:
    """Show what a workspace holds and what serves it."""
    ws = opened(home, project)
    if settings:
        rows = [ShownSetting(name=n, value=v, origin=ws.loaded.origins[n], help=HELP[n]) for n, v in shown(ws.settings).items()]
        columns = ("setting", "value", "from", "meaning")
        emit(rows, as_json=as_json, text=lambda: table(columns, [(row.name, row.value, row.origin, row.help) for row in rows]))
        return
    if disk:
        use = disk_use(ws)
        emit(use, as_json=as_json, text=lambda: disk_text(use))
        return
    found = WorkspaceStatus(
        home=str(ws.home),
        project=ws.project,
        running=read_running(ws.home),
        datasets=len(list_datasets(ws)),
        models=len(list_models(ws)),
        runs=len(list_runs(ws, limit=10_000)),
        events=verify_audit(ws).events,
        serving=read_states(ws.state),
    )
    emit(found, as_json=as_json, text=lambda: _status_text(found))


def _status_text(found: WorkspaceStatus) -> str:
    served = "not running; start with: tidemill up"
    if found.running:
        over_grpc = f", over gRPC at {found.running.grpc_address}" if found.running.grpc_address else ""
        served = f"up at {found.running.url}, predictions at {found.running.serve_url}{over_grpc}"
    holds = f"{found.datasets} datasets, {found.runs} runs, {found.models} models, {found.events} events"
    lines = [f"workspace {found.home}, project {found.project}", served, holds]
    for index, worker in sorted(found.serving.items()):
        if worker.refused:
            lines.append(f"worker {index} does not serve what is published: {worker.refused}")
        for trouble in worker.troubles:
            instead = f"answers by {', '.join(trouble.serves)}" if trouble.serves else "does not answer"
            lines.append(f"endpoint {trouble.endpoint} {instead} (worker {index}): {trouble.reason}")
    return "\n".join(lines)
