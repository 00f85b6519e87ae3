"""`tidemill audit`: what happened, and the proof that nobody changed it."""

from pathlib import Path

import click

from tidemill.cli.opening import opened, workspace_options
from tidemill.cli.show import emit, json_option, table
from tidemill.govern.audit import list_events, verify_audit


@click.group()
def audit() -> None:
    """The audit log: every state change with actor, time and reason."""


@audit.command("list")
@click.option("--subject", help="Only events of one thing, as in model:delay.")
@click.option("--limit", type=click.IntRange(1), default=30, show_default=True)
@workspace_options
@json_option
def list_(subject: str | None, limit: int, home: Path | None, project: str | None, as_json: bool) -> None:
    """List events, newest first."""
    found = list_events(opened(home, project), subject=subject, limit=limit)
    columns = ("seq", "at", "actor", "what", "subject", "reason")
    emit(found, as_json=as_json, text=lambda: table(columns, [(e.seq, e.at, e.actor, e.kind, e.subject, e.reason) for e in found]))


@audit.command()
@workspace_options
@json_option
def verify(home: Path | None, project: str | None, as_json: bool) -> int:
    """Re-compute the chain of hashes. Exit code 1 names the first event that does not fit."""
    report = verify_audit(opened(home, project))
    text = f"{report.events} events, chain unbroken" if report.verified else f"BROKEN: {report.what}"
    emit(report, as_json=as_json, text=lambda: text)
    return 0 if report.verified else 1
