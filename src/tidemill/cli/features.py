"""`tidemill features`: feature views and services, and their versions."""

from collections.abc import Sequence
from pathlib import Path

import click

from tidemill.cli.show import emit, json_option, opened, table, workspace_options
from tidemill.core.errors import Invalid
from tidemill.features import definitions
from tidemill.features.materialize import materialize as put_online
from tidemill.features.views import Feature, FeatureService, FeatureView
from tidemill.pipelines.project import load_object


@click.group()
def features() -> None:
    """Features: defined once, the same in training and in serving."""


@features.command("list")
@workspace_options
@json_option
def list_(home: Path | None, project: str | None, as_json: bool) -> None:
    """List feature views and services with their newest versions."""
    ws = opened(home, project)
    views, services = definitions.list_views(ws), definitions.list_services(ws)
    of_views = [
        (v.name, v.version, v.definition.source, " ".join(v.definition.entity), len(v.definition.features), v.created_at, v.actor)
        for v in views
    ]
    of_services = [(s.name, s.version, ", ".join(f"{v.name}@{v.version}" for v in s.views), s.created_at, s.actor) for s in services]
    emit(
        {"views": views, "services": services},
        as_json=as_json,
        text=lambda: (
            f"{table(('view', 'version', 'source', 'join keys', 'features', 'applied', 'by'), of_views, empty='no views')}\n\n"
            f"{table(('service', 'version', 'views', 'applied', 'by'), of_services, empty='no services')}"
        ),
    )


@features.command()
@click.argument("reference")
@workspace_options
@json_option
def show(reference: str, home: Path | None, project: str | None, as_json: bool) -> None:
    """Show the feature view that NAME or NAME@VERSION names."""
    found = definitions.read_view(opened(home, project), reference)
    view = found.definition
    of = f"of {view.source}, by {', '.join(view.entity)} at {view.event_timestamp}"
    head = f"{found.name}@{found.version}  {of}  {view.description}".rstrip()
    rows = [(feature.name, feature.kind, _what(feature), feature.description) for feature in view.features]
    emit(found, as_json=as_json, text=lambda: f"{head}\n\n{table(('feature', 'kind', 'what', 'description'), rows)}")


@features.command()
@click.argument("targets", nargs=-1, required=True, metavar="MODULE:NAME...")
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
@click.option("--reason", default="", help="Why.")
@workspace_options
@json_option
def apply(targets: tuple[str, ...], dry_run: bool, reason: str, home: Path | None, project: str | None, as_json: bool) -> None:
    """Give views and services of the project's files their next versions; MODULE:NAME is one of them, or a list."""
    ws = opened(home, project)
    found = [each for target in targets for each in _definitions(load_object(ws.home, target), target)]
    views = [each for each in found if isinstance(each, FeatureView)]
    services = [each for each in found if isinstance(each, FeatureService)]
    plan = definitions.plan(ws, views, services) if dry_run else definitions.apply(ws, views, services, reason=reason)
    columns = ("", "name", "version", "change", "what")
    emit(
        plan, as_json=as_json, text=lambda: table(columns, [(c.kind, c.name, c.version, c.action, ", ".join(c.what)) for c in plan.changes])
    )


@features.command()
@click.argument("view")
@click.option("--reason", default="", help="Why.")
@workspace_options
@json_option
def materialize(view: str, reason: str, home: Path | None, project: str | None, as_json: bool) -> None:
    """Put the events of a VIEW's source online."""
    done = put_online(opened(home, project), view, reason=reason)
    counts = f"{done.stored} events of {done.source} are online, {done.skipped} had no key or time"
    text = f"{done.view} up to {done.until:%Y-%m-%d %H:%M}: {counts}"
    emit(done, as_json=as_json, text=lambda: text)


def _definitions(found: object, target: str) -> list[FeatureView | FeatureService]:
    listed: Sequence[object] = found if isinstance(found, list | tuple) else [found]
    known = [each for each in listed if isinstance(each, FeatureView | FeatureService)]
    if len(known) < len(listed):
        raise Invalid(f"{target} is a {type(found).__name__}; expected a FeatureView, a FeatureService or a list of them")
    return known


def _what(feature: Feature) -> str:
    summary = feature.aggregation
    if summary is None:
        return f"latest {feature.reads}"
    return f"{summary.function} of {summary.column or 'events'} in {summary.window}"
