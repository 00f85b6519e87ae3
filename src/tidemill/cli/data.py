"""`tidemill data`: datasets and their versions."""

from pathlib import Path

import click

from tidemill.cli.opening import opened, workspace_options
from tidemill.cli.show import emit, json_option, table
from tidemill.datasets import intake, versions


@click.group()
def data() -> None:
    """Datasets: names with immutable versions."""


@data.command()
@click.argument("name")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--description", default="", help="What the dataset is.")
@click.option("--reason", default="", help="Why this version is made.")
@workspace_options
@json_option
def add(name: str, files: tuple[Path, ...], description: str, reason: str, home: Path | None, project: str | None, as_json: bool) -> None:
    """Make a version of dataset NAME from Parquet or CSV FILES. The same content again is the same version."""
    admitted = intake.add(opened(home, project), name, list(files), description=description, reason=reason)
    made, aside = admitted.version, admitted.quarantine
    note = f"\n{admitted.set_aside} rows that break the contract were set aside: {aside.name}@{aside.version}" if aside else ""
    emit(admitted, as_json=as_json, text=lambda: f"{made.name}@{made.version}  {made.rows} rows  {made.digest}\n{_schema(made)}{note}")


@data.command("list")
@workspace_options
@json_option
def list_(home: Path | None, project: str | None, as_json: bool) -> None:
    """List datasets."""
    ws = opened(home, project)
    found = [versions.read_version(ws, dataset.name) for dataset in versions.list_datasets(ws)]
    columns = ("dataset", "versions", "rows", "bytes", "changed")
    emit(found, as_json=as_json, text=lambda: table(columns, [(v.name, v.version, v.rows, v.size_bytes, v.created_at) for v in found]))


@data.command()
@click.argument("reference")
@workspace_options
@json_option
def show(reference: str, home: Path | None, project: str | None, as_json: bool) -> None:
    """Show the version that NAME or NAME@VERSION names."""
    found = versions.read_version(opened(home, project), reference)
    emit(found, as_json=as_json, text=lambda: f"{found.name}@{found.version}  {found.rows} rows  {found.digest}\n{_schema(found)}")


@data.command()
@click.argument("name")
@workspace_options
@json_option
def log(name: str, home: Path | None, project: str | None, as_json: bool) -> None:
    """List the versions of a dataset, newest first."""
    found = versions.list_versions(opened(home, project), name)
    columns = ("version", "rows", "bytes", "made", "by")
    emit(found, as_json=as_json, text=lambda: table(columns, [(v.version, v.rows, v.size_bytes, v.created_at, v.actor) for v in found]))


def _schema(version: versions.DatasetVersion) -> str:
    return "\n".join(f"  {name}  {kind}" for name, kind in version.columns.items())
