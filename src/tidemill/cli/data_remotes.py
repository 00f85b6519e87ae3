"""`tidemill data push, pull, clone, verify`: datasets between workspaces, through a folder or a bucket."""

from pathlib import Path

import click

from tidemill.cli.opening import opened, workspace_options
from tidemill.cli.show import emit, json_option, progress, size_text
from tidemill.datasets.remotes import Moved, pull, push, verify
from tidemill.datasets.versions import list_datasets

_URL = "a folder, or s3://BUCKET/PREFIX?endpoint=URL"
_reason = click.option("--reason", default="", help="Why, for the audit log.")


@click.command("push")
@click.argument("references", nargs=-1, required=True)
@click.option("--to", "url", required=True, help=f"Where to: {_URL}.")
@workspace_options
@json_option
def push_(references: tuple[str, ...], url: str, home: Path | None, project: str | None, as_json: bool) -> None:
    """Send versions (NAME@VERSION, or NAME for all of it) to a remote: only what it lacks, and on from where it stopped."""
    ws = opened(home, project)
    with progress("objects") as watch:
        done = push(ws, references, url, watch=watch)
    emit(done, as_json=as_json, text=lambda: _moved(done))


@click.command("pull")
@click.argument("references", nargs=-1, required=True)
@click.option("--from", "url", required=True, help=f"Where from: {_URL}.")
@click.option("--as", "as_name", default=None, help="What the dataset is called here.")
@_reason
@workspace_options
@json_option
def pull_(
    references: tuple[str, ...], url: str, as_name: str | None, reason: str, home: Path | None, project: str | None, as_json: bool
) -> None:  # fmt: skip
    """Bring versions (NAME@VERSION, or NAME for all of it) from a remote: only what is missing, and on from where it stopped."""
    ws = opened(home, project)
    with progress("objects") as watch:
        done = pull(ws, references, url, as_name=as_name, reason=reason, watch=watch)
    emit(done, as_json=as_json, text=lambda: _moved(done))


@click.command()
@click.argument("url")
@_reason
@workspace_options
@json_option
def clone(url: str, reason: str, home: Path | None, project: str | None, as_json: bool) -> None:
    """Bring every dataset that is at URL: a folder, or s3://BUCKET/PREFIX?endpoint=URL."""
    ws = opened(home, project)
    with progress("objects") as watch:
        done = pull(ws, (), url, reason=reason, watch=watch)
    emit(done, as_json=as_json, text=lambda: _moved(done))


@click.command("verify")
@click.argument("references", nargs=-1)
@click.option("--repair", "url", default=None, help=f"Where broken files are restored from: {_URL}.")
@workspace_options
@json_option
def verify_(references: tuple[str, ...], url: str | None, home: Path | None, project: str | None, as_json: bool) -> int:
    """Read every file of datasets (all unless told) again and compare it with its digest; exit with 1 when one is broken and not mended."""
    ws = opened(home, project)
    with progress("files") as watch:
        found = verify(ws, references or [dataset.name for dataset in list_datasets(ws)], repair=url, watch=watch)
    lines = [f"broken: {what}{' (mended)' if what in found.mended else ''}" for what in found.broken]
    emit(found, as_json=as_json, text=lambda: "\n".join([*lines, f"{found.files} files read, {size_text(found.size_bytes)}"]))
    return int(not found.ok)


def _moved(done: Moved) -> str:
    new = ", ".join(node.removeprefix("dataset:") for node in done.versions) or "no version"
    return f"{new} new; {done.sent} objects sent ({size_text(done.sent_bytes)}), {done.there} there already"
