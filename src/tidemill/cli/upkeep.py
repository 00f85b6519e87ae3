"""`tidemill gc`: give names and disk back."""

from datetime import timedelta
from pathlib import Path

import click

from tidemill.automate.upkeep import collect
from tidemill.cli.opening import opened, workspace_options
from tidemill.cli.run_text import trash_rows, upkept_text
from tidemill.cli.show import emit, json_option
from tidemill.tracking.trash import list_trash


@click.command()
@click.option("--now", is_flag=True, help="Empty the trash now, whatever its time.")
@click.option("--dry-run", is_flag=True, help="Only show what lies in the trash, and until when.")
@click.option("--grace", type=click.IntRange(0), help="Seconds for which unused bytes are left for their writers. Default: gc_grace_s.")
@click.option("--compact", is_flag=True, help="Write a SQLite catalog anew, so that its file shrinks; writers wait meanwhile.")
@workspace_options
@json_option
def gc(now: bool, dry_run: bool, grace: int | None, compact: bool, home: Path | None, project: str | None, as_json: bool) -> None:
    """Remove for good what has been in the trash for its time, and the bytes that nothing refers to any more.

    Counts what lies there before and after. A grace shorter than writers need to record what they stored is for a workspace that
    nobody writes to.
    """
    ws = opened(home, project)
    if dry_run:
        waiting = list_trash(ws)
        emit(waiting, as_json=as_json, text=lambda: trash_rows(waiting))
        return
    done = collect(ws, now=now, grace=None if grace is None else timedelta(seconds=grace), compact=compact)
    emit(done, as_json=as_json, text=lambda: upkept_text(done))
