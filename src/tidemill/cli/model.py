"""`tidemill model`: registered models, versions, aliases, cards."""

from pathlib import Path

import click

from tidemill.checks.check import list_checks
from tidemill.cli.show import emit, json_option, opened, table, workspace_options
from tidemill.core.errors import NotFound
from tidemill.registry import aliases, models, versions


@click.group()
def model() -> None:
    """Models: names with immutable versions, and aliases that point at them."""


@model.command("list")
@workspace_options
@json_option
def list_(home: Path | None, project: str | None, as_json: bool) -> None:
    """List models with their newest versions."""
    ws = opened(home, project)
    found = [version for known in models.list_models(ws) for version in versions.list_versions(ws, known.name, limit=10)]
    held = {(known.name, v): alias for known in models.list_models(ws) for alias, v in aliases.read_aliases(ws, known.name).items()}
    rows = [(v.name, v.version, held.get((v.name, v.version), ""), v.verdict, v.created_at, v.run) for v in found]
    emit(found, as_json=as_json, text=lambda: table(("model", "version", "alias", "checks", "made", "run"), rows))


@model.command()
@click.argument("reference")
@workspace_options
@json_option
def show(reference: str, home: Path | None, project: str | None, as_json: bool) -> None:
    """Show the version that NAME, NAME@VERSION or NAME@ALIAS names, with what its checks said."""
    ws = opened(home, project)
    found = aliases.read_version(ws, reference)
    records = list_checks(ws, found.node)
    made = f"made {found.created_at:%Y-%m-%d %H:%M} by {found.actor}"
    head = f"{found.name}@{found.version}  checks: {found.verdict}  {found.size_bytes} bytes  {made}"
    checks = table(("check", "verdict", "what was found"), [(r.result.name, r.result.verdict, r.result.summary) for r in records])
    emit({"version": found, "checks": records}, as_json=as_json, text=lambda: f"{head}\n\n{checks}")


@model.command()
@click.argument("name")
@click.argument("alias_name", metavar="ALIAS")
@click.argument("version", type=click.IntRange(1))
@click.option("--reason", default="", help="Why.")
@click.option("--override", is_flag=True, help="Even though its checks failed; approvers only, with a reason.")
@workspace_options
@json_option
def alias(
    name: str, alias_name: str, version: int, reason: str, override: bool, home: Path | None, project: str | None, as_json: bool
) -> None:
    """Point ALIAS of model NAME at VERSION."""
    found = aliases.promote(opened(home, project), name, version, alias=alias_name, reason=reason, override=override)
    emit(found, as_json=as_json, text=lambda: f"{name}@{alias_name} is version {found.version} now")


@model.command()
@click.argument("name")
@workspace_options
@json_option
def history(name: str, home: Path | None, project: str | None, as_json: bool) -> None:
    """List every span of every alias: which version was champion when, and why."""
    found = aliases.alias_history(opened(home, project), name)
    columns = ("alias", "version", "from", "to", "by", "reason")
    emit(
        found,
        as_json=as_json,
        text=lambda: table(columns, [(s.alias, s.version, s.valid_from, s.valid_to, s.actor, s.reason) for s in found]),
    )


@model.command()
@click.argument("reference")
@workspace_options
@json_option
def card(reference: str, home: Path | None, project: str | None, as_json: bool) -> None:
    """Print the model card of a version."""
    ws = opened(home, project)
    found = aliases.read_version(ws, reference)
    if found.card is None:
        raise NotFound(
            f"model {found.name}@{found.version} has no card; one is written when a pipeline registers a version with its checks"
        )
    text = ws.objects.get(found.card).decode()
    emit({"model": found.name, "version": found.version, "card": text}, as_json=as_json, text=lambda: text)
