"""`tidemill data add, list, show, log, get, tag, rm, restore`: versions of datasets, one by one."""

from datetime import UTC, datetime
from pathlib import Path

import click

from tidemill.cli.opening import opened, workspace_options
from tidemill.cli.show import MOMENTS, emit, json_option, progress, size_text, table
from tidemill.datasets import checkout, intake, tags, trash, versions
from tidemill.datasets.versions import DatasetVersion

_force = click.option("--force", is_flag=True, help="Do it all the same.")
_reason = click.option("--reason", default="", help="Why, for the audit log.")


@click.command()
@click.argument("name")
@click.argument("files", nargs=-1, required=True)
@click.option("--as-files", is_flag=True, help="Files just as they are, also when they could be read as a table.")
@click.option("--description", default="", help="What the dataset is.")
@_reason
@workspace_options
@json_option
def add(
    name: str, files: tuple[str, ...], as_files: bool, description: str, reason: str, home: Path | None, project: str | None, as_json: bool
) -> None:  # fmt: skip
    """Make a version of dataset NAME from FILES: files, folders or patterns, kept byte for byte.

    Parquet, CSV, TSV and JSON lines are the rows of a table. The same content again is the same version; of what is like the version before
    only what differs is stored, and what has not changed since is not even read.
    """
    ws = opened(home, project)
    with progress("files") as watch:
        places = [Path(file) for file in files]
        as_table = False if as_files else None
        admitted = intake.add(ws, name, places, as_table=as_table, description=description, reason=reason, watch=watch)
    made, aside = admitted.version, admitted.quarantine
    note = f"\n{admitted.set_aside} rows that break the contract were set aside: {aside.name}@{aside.version}" if aside else ""
    emit(admitted, as_json=as_json, text=lambda: _told(made) + note)


@click.command("list")
@click.option("--deleted", is_flag=True, help="What is in the trash.")
@workspace_options
@json_option
def list_(deleted: bool, home: Path | None, project: str | None, as_json: bool) -> None:
    """List datasets."""
    ws = opened(home, project)
    found = trash.list_trash(ws) if deleted else [versions.read_version(ws, dataset.name) for dataset in versions.list_datasets(ws)]
    columns = ("dataset", "version" if deleted else "versions", "rows", "files", "bytes", "deleted" if deleted else "changed")
    rows = [(v.name, v.version, v.rows, v.files, v.size_bytes, v.deleted_at or v.created_at) for v in found]
    emit(found, as_json=as_json, text=lambda: table(columns, rows))


@click.command()
@click.argument("reference")
@click.option("--at", type=click.DateTime(MOMENTS), help="The newest version as of a moment (UTC unless told).")
@workspace_options
@json_option
def show(reference: str, at: datetime | None, home: Path | None, project: str | None, as_json: bool) -> None:
    """Show the version that NAME, NAME@VERSION or NAME@TAG names."""
    found = versions.read_version(opened(home, project), reference, at=at.replace(tzinfo=at.tzinfo or UTC) if at is not None else None)
    emit(found, as_json=as_json, text=lambda: _told(found))


@click.command()
@click.argument("name")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="Most versions shown.")
@workspace_options
@json_option
def log(name: str, limit: int, home: Path | None, project: str | None, as_json: bool) -> None:
    """List the versions of a dataset, newest first."""
    ws = opened(home, project)
    found, tagged = versions.list_versions(ws, name, limit=limit), tags.read_tags(ws, name)
    columns = ("version", "rows", "files", "bytes", "new bytes", "made", "by", "tags")
    rows = [
        (
            v.version,
            v.rows,
            v.files,
            v.size_bytes,
            v.new_bytes,
            v.created_at,
            v.actor,
            " ".join(t for t in tagged if tagged[t] == v.version),
        )
        for v in found
    ]
    emit(found, as_json=as_json, text=lambda: table(columns, rows))


@click.command()
@click.argument("reference")
@click.argument("folder", required=False, type=click.Path(path_type=Path, file_okay=False))
@click.option("--force", is_flag=True, help="Write over files that were changed by hand.")
@workspace_options
@json_option
def get(reference: str, folder: Path | None, force: bool, home: Path | None, project: str | None, as_json: bool) -> None:
    """Write the files of a version into FOLDER (./NAME unless told), byte for byte as they were given.

    In a folder that holds another version of the dataset only what differs is written.
    """
    ws = opened(home, project)
    with progress("bytes") as watch:
        done = checkout.check_out(ws, reference, folder, force=force, watch=watch)
    found = done.version
    emit(
        done, as_json=as_json, text=lambda: f"{found.name}@{found.version}: {done.written} of {found.files} files written to {done.folder}"
    )


@click.command()
@click.argument("reference")
@click.argument("tag")
@click.option("--remove", is_flag=True, help="Let the tag stand for nothing.")
@_reason
@workspace_options
@json_option
def tag(reference: str, tag: str, remove: bool, reason: str, home: Path | None, project: str | None, as_json: bool) -> None:
    """Let TAG stand for the version that REFERENCE names: NAME@TAG is it from now on."""
    ws, name = opened(home, project), reference.partition("@")[0]
    if remove:
        tags.remove_tag(ws, name, tag, reason=reason)
    else:
        tags.tag_version(ws, reference, tag, reason=reason)
    found = tags.read_tags(ws, name)
    emit(found, as_json=as_json, text=lambda: table(("tag", "version"), sorted(found.items())))


@click.command()
@click.argument("reference")
@_force
@_reason
@workspace_options
@json_option
def rm(reference: str, force: bool, reason: str, home: Path | None, project: str | None, as_json: bool) -> None:
    """Put a version, or with NAME all of them, into the trash. What something was made of needs --force."""
    gone = trash.delete_versions(opened(home, project), reference, force=force, reason=reason)
    emit(gone, as_json=as_json, text=lambda: "\n".join(f"{v.name}@{v.version} is in the trash" for v in gone))


@click.command()
@click.argument("reference")
@_reason
@workspace_options
@json_option
def restore(reference: str, reason: str, home: Path | None, project: str | None, as_json: bool) -> None:
    """Bring a version, or with NAME all of them, back from the trash."""
    back = trash.restore_versions(opened(home, project), reference, reason=reason)
    emit(back, as_json=as_json, text=lambda: "\n".join(f"{v.name}@{v.version} is back" for v in back))


def _told(version: DatasetVersion) -> str:
    what = f"{version.rows} rows" if version.columns else f"{version.files} files"
    sizes = f"{size_text(version.size_bytes)}, of which {size_text(version.new_bytes)} new"
    return f"{version.name}@{version.version}  {what}  {version.digest}\n  {sizes}\n" + "\n".join(
        f"  {name}  {kind}" for name, kind in version.columns.items()
    )
