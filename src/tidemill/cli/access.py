"""`tidemill access`: roles, API keys, projects."""

from datetime import timedelta
from pathlib import Path

import click

from tidemill.cli.opening import opened, workspace_options
from tidemill.cli.show import emit, json_option, table
from tidemill.govern import keys as api_keys
from tidemill.govern.roles import ROLES
from tidemill.govern.workspace import create_project, grant_role


@click.group()
def access() -> None:
    """Who may do what."""


@access.command()
@click.argument("actor")
@click.argument("role", type=click.Choice(ROLES))
@click.option("--reason", default="", help="Why.")
@workspace_options
@json_option
def grant(actor: str, role: str, reason: str, home: Path | None, project: str | None, as_json: bool) -> None:
    """Give ACTOR a ROLE in this project."""
    granted = grant_role(opened(home, project), actor, role, reason=reason)
    emit(granted, as_json=as_json, text=lambda: f"{granted.id} is {granted.role} now")


@access.command()
@click.argument("actor")
@click.option("--role", type=click.Choice(ROLES), default="viewer", show_default=True)
@click.option("--days", type=click.IntRange(1), default=90, show_default=True, help="Days until the key expires.")
@click.option("--note", default="", help="What the key is for.")
@workspace_options
@json_option
def key(actor: str, role: str, days: int, note: str, home: Path | None, project: str | None, as_json: bool) -> None:
    """Make an API key for ACTOR. Its token is shown this once."""
    issued = api_keys.issue_key(opened(home, project), actor, role=role, lifetime=timedelta(days=days), note=note)
    emit(issued, as_json=as_json, text=lambda: f"{issued.token}\nfor {actor} as {issued.key.role}, until {issued.key.expires_at:%Y-%m-%d}")


@access.command("keys")
@workspace_options
@json_option
def keys(home: Path | None, project: str | None, as_json: bool) -> None:
    """List API keys; never their secrets."""
    found = api_keys.list_keys(opened(home, project))
    columns = ("key", "actor", "project", "role", "expires", "revoked", "note")
    rows = [(k.id, k.actor, k.project, k.role, k.expires_at, k.revoked_at, k.note) for k in found]
    emit(found, as_json=as_json, text=lambda: table(columns, rows))


@access.command()
@click.argument("key_id")
@click.option("--reason", default="", help="Why.")
@workspace_options
@json_option
def revoke(key_id: str, reason: str, home: Path | None, project: str | None, as_json: bool) -> None:
    """Take a key back at once."""
    taken = api_keys.revoke_key(opened(home, project), key_id, reason=reason)
    emit(taken, as_json=as_json, text=lambda: f"key {key_id} of {taken.actor} is revoked")


@access.command("project")
@click.argument("name")
@click.option("--reason", default="", help="Why.")
@workspace_options
@json_option
def project_(name: str, reason: str, home: Path | None, project: str | None, as_json: bool) -> None:
    """Make project NAME."""
    create_project(opened(home, project), name, reason=reason)
    emit({"project": name}, as_json=as_json, text=lambda: f"project {name} is there; use it with --project {name}")
