"""`tidemill run`: what was executed, what waits, what can go."""

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from tidemill.catalog import jobs as queue
from tidemill.cli.opening import opened, workspace_options
from tidemill.cli.run_text import comparison_text, experiment_rows, merged_text, run_rows, run_text, trash_rows
from tidemill.cli.show import emit, json_option, on_terminal, size_text, table
from tidemill.client.call import Caller
from tidemill.client.client import connect
from tidemill.client.folders import RunNote, runs_folder
from tidemill.client.sync import merge_runs
from tidemill.core.clock import wait_until
from tidemill.core.codec import encode_text
from tidemill.core.errors import Invalid
from tidemill.core.settings import caller_environment, find_home
from tidemill.govern.workspace import Workspace
from tidemill.tracking import compare as comparing
from tidemill.tracking import experiments as known
from tidemill.tracking import runs, search, trash
from tidemill.tracking.export import export_run
from tidemill.tracking.runs import OPEN, Run
from tidemill.tracking.selection import experiment_ids, matching_runs

WATCH_S = 1.0
FILTER_HELP = "Only runs that this picks, as in: metrics.auc > 0.7 AND params.depth = '3'."


@click.group()
def run() -> None:
    """Runs: one execution of anything."""


@run.command("list")
@click.option("--experiment", multiple=True, help="Only runs of this experiment; may be given several times.")
@click.option("--filter", "picks", default="", help=FILTER_HELP)
@click.option("--order", multiple=True, help="Order, as in: metrics.auc DESC. Default: newest first.")
@click.option("--metric", multiple=True, help="Show this metric's latest value in a column of its own.")
@click.option("--deleted", is_flag=True, help="What is in the trash.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Runs at most.")
@click.option("--page", help="The page behind one that ended with this token.")
@workspace_options
@json_option
def list_(
    experiment: tuple[str, ...],
    picks: str,
    order: tuple[str, ...],
    metric: tuple[str, ...],
    deleted: bool,
    limit: int,
    page: str | None,
    home: Path | None,
    project: str | None,
    as_json: bool,
) -> None:
    """List runs, newest first unless told otherwise."""
    ws = opened(home, project)
    ids, view = experiment_ids(ws, experiment), known_view(deleted)
    found = search.search_runs(ws, ids, filter=picks, order_by=order, view=view, limit=limit, page_token=page)
    if found.next is not None and on_terminal():
        click.echo(f"more with: --page {found.next}", err=True)
    emit(found, as_json=as_json, text=lambda: run_rows(found.items, metric))


@run.command()
@click.argument("run_id")
@workspace_options
@json_option
def show(run_id: str, home: Path | None, project: str | None, as_json: bool) -> None:
    """Show one run: params, metrics, tags, files."""
    found = runs.read_run(opened(home, project), run_id)
    emit(found, as_json=as_json, text=lambda: run_text(found))


@run.command()
@click.argument("run_ids", nargs=-1, required=True)
@click.option("--all", "everything", is_flag=True, help="What is equal, too.")
@workspace_options
@json_option
def compare(run_ids: tuple[str, ...], everything: bool, home: Path | None, project: str | None, as_json: bool) -> None:
    """Show runs side by side: what differs in params, metrics, tags, data, code and packages."""
    found = comparing.compare_runs(opened(home, project), run_ids, everything=everything)
    emit(found, as_json=as_json, text=lambda: comparison_text(found))


@run.command()
@click.argument("run_id")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@workspace_options
@json_option
def export(run_id: str, folder: Path, home: Path | None, project: str | None, as_json: bool) -> None:
    """Write a run into FOLDER: run.json, params.json, data.json, metrics.parquet, and its files with the environment."""
    done = export_run(opened(home, project), run_id, folder)
    emit(done, as_json=as_json, text=lambda: f"{done.files} files ({size_text(done.size_bytes)}), {done.points} points in {folder}")


@run.command()
@click.argument("run_ids", nargs=-1)
@click.option("--filter", "picks", help=FILTER_HELP)
@click.option("--experiment", multiple=True, help="With --filter: of this experiment; may be given several times.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@workspace_options
@json_option
def rm(
    run_ids: tuple[str, ...],
    picks: str | None,
    experiment: tuple[str, ...],
    yes: bool,
    home: Path | None,
    project: str | None,
    as_json: bool,
) -> None:
    """Put runs into the trash, with those that are part of them. They come back with `run restore`, until `gc` removes them."""
    ws = opened(home, project)
    ids = _meant(ws, run_ids, picks, experiment, deleted=False)
    if picks is not None and not yes:
        _ask(f"put {len(ids)} runs into the trash?")
    count = trash.delete_runs(ws, ids)
    said = f"{count} runs are in the trash; bring them back with: tidemill run restore ID"
    emit({"deleted": count}, as_json=as_json, text=lambda: said)


@run.command()
@click.argument("run_ids", nargs=-1)
@click.option("--filter", "picks", help=FILTER_HELP)
@click.option("--experiment", multiple=True, help="With --filter: of this experiment; may be given several times.")
@workspace_options
@json_option
def restore(
    run_ids: tuple[str, ...], picks: str | None, experiment: tuple[str, ...], home: Path | None, project: str | None, as_json: bool
) -> None:
    """Take runs out of the trash, with those that are part of them."""
    ws = opened(home, project)
    count = trash.restore_runs(ws, _meant(ws, run_ids, picks, experiment, deleted=True))
    emit({"restored": count}, as_json=as_json, text=lambda: f"{count} runs are back")


@run.command()
@click.argument("experiment")
@click.argument("days")
@workspace_options
@json_option
def keep(experiment: str, days: str, home: Path | None, project: str | None, as_json: bool) -> None:
    """Keep the deleted runs of EXPERIMENT for DAYS days; `default` for as long as the setting trash_keep_days says."""
    ws = opened(home, project)
    if days != "default" and not days.isdecimal():
        raise Invalid(f"deleted runs cannot be kept for {days!r} days; expected a whole number, or default")
    (found,) = experiment_ids(ws, [experiment])
    changed = known.keep_for(ws, found, None if days == "default" else int(days))
    kept = ws.settings.trash_keep_days if changed.keep_days is None else changed.keep_days
    emit(changed, as_json=as_json, text=lambda: f"deleted runs of {experiment} are kept for {kept} days")


@run.command()
@click.option("--deleted", is_flag=True, help="What is in the trash, and until when.")
@workspace_options
@json_option
def experiments(deleted: bool, home: Path | None, project: str | None, as_json: bool) -> None:
    """List experiments: how many runs each holds, and for how long its trash is kept."""
    ws = opened(home, project)
    gone = trash.list_trash(ws)
    if deleted:
        emit(gone, as_json=as_json, text=lambda: trash_rows(gone))
        return
    found = known.list_experiments(ws)
    counts = search.count_runs(ws, [each.id for each in found])
    emit(found, as_json=as_json, text=lambda: experiment_rows(found, counts, gone, ws.settings.trash_keep_days))


@run.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), required=False)
@click.option("--url", help="Server, or workspace:FOLDER. Default: where each run was to go, else TIDEMILL_URL, else where you are.")
@click.option("--keep", is_flag=True, help="Leave the files, for another server.")
@workspace_options
@json_option
def sync(folder: Path | None, url: str | None, keep: bool, home: Path | None, project: str | None, as_json: bool) -> None:
    """Merge runs that lie on this machine's disk: what was logged offline, and what processes that died left.

    FOLDER: of one run, or of many; TIDEMILL_RUNS unless told. Doing it again changes nothing.
    """
    done = []
    for merged in merge_runs(runs_folder(folder), _Callers(url, home, project), keep=keep):
        done.append(merged)
        if on_terminal():
            click.echo(merged_text(merged), err=True)
    said = f"{len(done)} runs, {sum(m.requests for m in done)} requests and {sum(m.files for m in done)} files merged"
    emit(done, as_json=as_json, text=lambda: said if on_terminal() else "\n".join([*map(merged_text, done), said]))


@run.command()
@click.argument("run_id")
@click.option("--every", "every_s", type=click.FloatRange(0.1), default=WATCH_S, show_default=True, help="Seconds between two looks.")
@workspace_options
@json_option
def watch(run_id: str, every_s: float, home: Path | None, project: str | None, as_json: bool) -> None:
    """Print a run's metrics as they change, until it ends. With --json, one line of JSON a look."""
    ws = opened(home, project)
    seen: dict[str, object] = {}

    def ended() -> bool:
        found = runs.read_run(ws, run_id)
        fresh = {key: (value, found.last[key].step) for key, value in found.metrics.items() if seen.get(key) != found.last[key]}
        seen.update(found.last)
        if fresh and as_json:
            click.echo(encode_text({"run": found.id, "status": found.status, "metrics": fresh}))
        elif fresh:
            click.echo("  ".join(f"{key}={value:.6g} ({step})" for key, (value, step) in fresh.items()))
        return found.status not in OPEN

    wait_until(ended, timeout_s=float("inf"), every_s=every_s)
    found = runs.read_run(ws, run_id)
    click.echo(encode_text({"run": found.id, "status": found.status}) if as_json else f"{found.status} {found.message}".rstrip())


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


class _Callers:
    """Where a run goes: to the server that was named, else to where it was to go, else to where the command stands."""

    def __init__(self, url: str | None, home: Path | None, project: str | None) -> None:
        self._url, self._home, self._project = url, home, project
        self._open: dict[str, Caller] = {}

    def __call__(self, note: RunNote) -> Caller:
        place = f"workspace:{self._home}" if self._home is not None else self._url or note.url or caller_environment().get("url")
        place, project = place or f"workspace:{find_home()}", self._project or note.project
        if f"{place} {project}" not in self._open:
            client = connect(place, project=project)
            click.get_current_context().call_on_close(client.close)
            self._open[f"{place} {project}"] = client.caller
        return self._open[f"{place} {project}"]


def known_view(deleted: bool) -> known.View:
    """Return what a list looks at."""
    return "deleted" if deleted else "active"


def _meant(ws: Workspace, ids: Sequence[str], picks: str | None, experiment: Sequence[str], *, deleted: bool) -> list[str]:
    if bool(ids) == (picks is not None) or (experiment and picks is None):
        raise Invalid("name the runs by their ids, or by --filter (with --experiment if you like), not by both and not by neither")
    if picks is None:
        return list(ids)
    found: list[Run] = list(matching_runs(ws, experiment_ids(ws, experiment), filter=picks, view=known_view(deleted)))
    return [each.id for each in found]


def _ask(question: str) -> None:
    if not sys.stdin.isatty():
        raise Invalid(f"{question.rstrip('?')}: nobody is there to be asked; say --yes")
    click.confirm(question, abort=True, err=True)
