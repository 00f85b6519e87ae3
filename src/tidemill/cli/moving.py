"""`tidemill import` and `tidemill export`: from other tools and back."""

from pathlib import Path

import click

from tidemill.cli.opening import opened, workspace_options
from tidemill.cli.show import emit, json_option, on_terminal, table
from tidemill.server.mlflow.moving.arrival import Arrival, bring
from tidemill.server.mlflow.moving.departure import Departure, leave
from tidemill.server.mlflow.moving.origin import open_store

SHOW_EVERY = 25


@click.group("import")
def import_() -> None:
    """Bring what other tools keep: MLflow's experiments, runs, models."""


@click.group("export")
def export() -> None:
    """Write what is kept here for other tools: an MLflow store."""


@import_.command("mlflow")
@click.argument("uri")
@click.option(
    "--artifacts",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The folder behind mlflow-artifacts: (what MLflow calls --artifacts-destination), when URI is no server.",
)
@click.option("--token", help="What an MLflow server asks for as a bearer token. User and password go into the URI.")
@workspace_options
@json_option
def import_mlflow(uri: str, artifacts: Path | None, token: str | None, home: Path | None, project: str | None, as_json: bool) -> int:
    """Bring all of the MLflow store at URI: http(s)://SERVER, sqlite:///FILE, an SQLite file or an mlruns folder.

    Experiments, runs with params, tags and whole histories, artifacts, dataset inputs, logged models, registered models with
    versions and aliases. Started again after a kill it goes on; done again it brings what is new. Exit code 1 when the counts differ.
    """
    ws = opened(home, project)
    store = open_store(uri, artifacts=artifacts, token=token)
    try:
        found = bring(ws, store, watch=_show_progress if on_terminal() else _say_nothing)
    finally:
        store.close()
        if on_terminal():
            click.echo("\r\033[K", nl=False, err=True)
    emit(found, as_json=as_json, text=lambda: _arrived(found))
    return 0 if found.agrees else 1


@export.command("mlflow")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@workspace_options
@json_option
def export_mlflow(folder: Path, home: Path | None, project: str | None, as_json: bool) -> int:
    """Write all that is kept here as an MLflow store into FOLDER: mlflow.db, and artifacts beside it."""
    found = leave(opened(home, project), folder, watch=_show_progress if on_terminal() else _say_nothing)
    if on_terminal():
        click.echo("\r\033[K", nl=False, err=True)
    emit(found, as_json=as_json, text=lambda: _left(found))
    return 0 if found.agrees else 1


def _arrived(found: Arrival) -> str:
    counts = table(
        ("what", "there", "here", ""), [(c.kind, c.theirs, c.ours, "" if c.theirs == c.ours else "differs") for c in found.counts]
    )
    word = "everything is here" if found.agrees else "NOT everything is here"
    brought = f"{found.fresh} things were brought or brought up to date" if found.fresh else "nothing was new"
    return "\n".join([f"{found.place}: {word}; {brought}", "", counts, *(f"note: {note}" for note in found.notes)])


def _left(found: Departure) -> str:
    counts = table(
        ("what", "here", "there", ""), [(c.kind, c.ours, c.theirs, "" if c.theirs == c.ours else "differs") for c in found.counts]
    )
    return "\n".join([f"{found.place} is written; open it with: {found.command}", "", counts, *(f"note: {note}" for note in found.notes)])


def _show_progress(what: str, count: int) -> None:
    if count % SHOW_EVERY == 0:
        click.echo(f"\r\033[K{count} looked at, now {what}", nl=False, err=True)


def _say_nothing(_what: str, _count: int) -> None:
    pass
