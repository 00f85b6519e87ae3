"""`tidemill features`: feature views and services, and their versions."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tidemill.cli.features_text import told_import, told_plan, told_skew, told_sources, told_versions, told_view
from tidemill.cli.opening import opened, workspace_options
from tidemill.cli.show import MOMENTS, cell, emit, json_option, on_terminal, table
from tidemill.core.errors import Invalid
from tidemill.core.settings import FILE_NAME
from tidemill.core.window import Window
from tidemill.datasets.content import read_files
from tidemill.deploy.feature_use import feature_use
from tidemill.deploy.skew import skew as replay
from tidemill.features import applied, definitions
from tidemill.features.declared import FeaturesDeclared, declared_features
from tidemill.features.feast import import_feast
from tidemill.features.history import MEMORY_MB, entity_rows, history_to
from tidemill.features.lookup import features_get
from tidemill.features.materialize import materialize as put_online
from tidemill.features.sources import Source, list_sources
from tidemill.features.views import FeatureService, FeatureView, Missing
from tidemill.pipelines.project import load_object

if TYPE_CHECKING:
    import pyarrow as pa

Definition = Source | FeatureView | FeatureService
VIEW_COLUMNS = ("view", "version", "source", "join keys", "features", "owner", "tags", "applied", "by")
SERVICE_COLUMNS = ("service", "version", "views", "owner", "tags", "applied", "by")


@click.group()
def features() -> None:
    """Features: defined once, the same in training and in serving."""


@features.command("list")
@click.option("--search", default="", metavar="WORDS", help="Only those that mention all words: in names, descriptions, owner, tags.")
@workspace_options
@json_option
def list_(search: str, home: Path | None, project: str | None, as_json: bool) -> None:
    """List feature views and services with their newest versions."""
    ws = opened(home, project)
    views, services = definitions.list_views(ws, search=search), definitions.list_services(ws, search=search)
    of_views = [
        (v.name, v.version, v.definition.source, " ".join(v.definition.entity), len(v.definition.features), v.definition.owner,
         " ".join(v.definition.tags), v.created_at, v.actor)
        for v in views
    ]  # fmt: skip
    of_services = [
        (s.name, s.version, ", ".join(f"{v.name}@{v.version}" for v in s.views), s.definition.owner, " ".join(s.definition.tags),
         s.created_at, s.actor)
        for s in services
    ]  # fmt: skip
    emit(
        {"views": views, "services": services},
        as_json=as_json,
        text=lambda: f"{table(VIEW_COLUMNS, of_views, empty='no views')}\n\n{table(SERVICE_COLUMNS, of_services, empty='no services')}",
    )


@features.command()
@click.argument("reference")
@click.option("--versions", is_flag=True, help="List all versions of it, and what each changed.")
@workspace_options
@json_option
def show(reference: str, versions: bool, home: Path | None, project: str | None, as_json: bool) -> None:
    """Show the feature view that NAME or NAME@VERSION names."""
    ws = opened(home, project)
    if versions:
        all_of_it = definitions.view_versions(ws, reference.partition("@")[0])
        emit(all_of_it, as_json=as_json, text=lambda: told_versions(all_of_it))
        return
    found = definitions.read_view(ws, reference)
    emit(found, as_json=as_json, text=lambda: told_view(found))


@features.command()
@click.argument("reference", required=False, metavar="[VIEW[@VERSION]]")
@workspace_options
@json_option
def usage(reference: str | None, home: Path | None, project: str | None, as_json: bool) -> None:
    """List the services, models and endpoints that use the versions of a view, or of all views."""
    found = feature_use(opened(home, project), reference)
    rows = [(u.view, u.service, u.model, u.endpoint, u.role, None if u.share is None else f"{u.share:.0%}") for u in found]
    emit(found, as_json=as_json, text=lambda: table(("view", "service", "model", "endpoint", "role", "share"), rows, empty="no views"))


@features.command()
@click.argument("service", metavar="SERVICE@VERSION")
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
@click.option("--reason", default="", help="Why.")
@workspace_options
@json_option
def rollback(service: str, dry_run: bool, reason: str, home: Path | None, project: str | None, as_json: bool) -> None:
    """Make what a version of a service was the newest again: it and its views get new versions where they differ."""
    ws = opened(home, project)
    plan = applied.plan_rollback(ws, service) if dry_run else applied.rollback(ws, service, reason=reason)
    emit(plan, as_json=as_json, text=lambda: told_plan(plan))


@features.command()
@workspace_options
@json_option
def sources(home: Path | None, project: str | None, as_json: bool) -> None:
    """List the sources that are declared, and the dataset that each fills."""
    found = list_sources(opened(home, project))
    emit(found, as_json=as_json, text=lambda: told_sources(found))


@features.command()
@click.argument("names", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--reason", default="", help="Why.")
@workspace_options
@json_option
def refresh(names: tuple[str, ...], reason: str, home: Path | None, project: str | None, as_json: bool) -> None:
    """Take what SOURCEs hold by now into their datasets. The same content again is the same version."""
    ws = opened(home, project)
    found = [applied.refresh(ws, name, reason=reason) for name in names]
    emit(found, as_json=as_json, text=lambda: "\n".join(f"{each.name}@{each.version}  {each.rows} rows" for each in found))


@features.command()
@click.argument("targets", nargs=-1, metavar="[MODULE:NAME]...")
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
@click.option("--reason", default="", help="Why.")
@workspace_options
@json_option
def apply(targets: tuple[str, ...], dry_run: bool, reason: str, home: Path | None, project: str | None, as_json: bool) -> None:
    """Give sources, views and services their next versions: those of tidemill.toml, or MODULE:NAME of the project, one or a list."""
    ws = opened(home, project)
    declared = declared_features(ws.home) if not targets else FeaturesDeclared(targets=targets)
    found = [each for target in declared.targets for each in _definitions(load_object(ws.home, target), target)]
    found += [*declared.sources, *declared.views, *declared.services]
    if not found:
        raise Invalid(f"{FILE_NAME} declares no features; expected [features.views.NAME] there, or MODULE:NAME here")
    views = [each for each in found if isinstance(each, FeatureView)]
    services = [each for each in found if isinstance(each, FeatureService)]
    named = [each for each in found if isinstance(each, Source)]
    act = applied.plan if dry_run else partial(applied.apply, reason=reason)
    plan = act(ws, views, services, sources=named)
    emit(plan, as_json=as_json, text=lambda: told_plan(plan))


@features.command("import-feast")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--files", type=click.Path(path_type=Path), help="Where relative paths of files start. Default: the folder of PATH.")
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
@click.option("--reason", default="", help="Why.")
@workspace_options
@json_option
def import_feast_(
    path: Path, files: Path | None, dry_run: bool, reason: str, home: Path | None, project: str | None, as_json: bool
) -> None:  # fmt: skip
    """Bring a Feast project over: PATH is what `feast registry-dump` printed (a .json file), or a feature repository."""
    found = import_feast(opened(home, project), path, files=files, dry_run=dry_run, reason=reason)
    emit(found, as_json=as_json, text=lambda: told_import(found))


@features.command()
@click.argument("service")
@click.argument("given", nargs=-1, required=True, metavar="KEY=VALUE...|FILE")
@click.option("--at", type=click.DateTime(MOMENTS), help="As of this moment (UTC unless it says). Default: now.")
@click.option("--missing", type=click.Choice(("none", "fail")), help="For a feature without a value. Default: what the service says.")
@workspace_options
@json_option
def get(
    service: str, given: tuple[str, ...], at: datetime | None, missing: Missing | None, home: Path | None, project: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Look the features of SERVICE up online, for one entity or for the rows of a .parquet, .csv or .tsv file of join keys."""
    if len(given) == 1 and "=" not in given[0]:
        rows = read_files(Path(given[0])).to_pylist()
    elif all("=" in word for word in given):
        rows = [{name: value for name, _, value in (word.partition("=") for word in given)}]
    else:
        raise Invalid("the entity was not understood; give its join keys as KEY=VALUE, or one file with a row for each entity")
    found = features_get(opened(home, project), rows, service, at=_utc(at) if at is not None else None, missing=missing)
    lines = [(number, name, cell(value)) for number, row in enumerate(found.rows, 1) for name, value in row.features.items()]
    ages = [(number, view, time, cell(found.at - time) if time else "") for number, row in enumerate(found.rows, 1)
            for view, time in row.newest.items()]  # fmt: skip
    emit(found, as_json=as_json, text=lambda: (
        f"{table(('row', 'feature', 'value'), lines, empty='no rows')}\n\n{table(('row', 'view', 'newest event', 'age'), ages, empty='')}"
    ))  # fmt: skip


@features.command()
@click.argument("views", nargs=-1, required=True, metavar="VIEW...")
@click.option("--until", type=click.DateTime(MOMENTS), help="Events up to this moment (UTC unless it says). Default: now.")
@click.option("--full", is_flag=True, help="Start from nothing: what was pushed and is not in the source is gone.")
@click.option("--reason", default="", help="Why.")
@workspace_options
@json_option
def materialize(
    views: tuple[str, ...], until: datetime | None, full: bool, reason: str, home: Path | None, project: str | None, as_json: bool
) -> None:  # fmt: skip
    """Put online what came to the sources of VIEWs since the last time."""
    ws = opened(home, project)
    end = _utc(until) if until is not None else None
    watch = _show_progress if on_terminal() else None
    done = [put_online(ws, view, end, full=full, watch=watch, reason=reason) for view in views]
    lines = [
        f"{each.view} up to {each.until:%Y-%m-%d %H:%M}: {each.stored} events of {each.source} went online, "
        f"{each.skipped} had no key or time"
        for each in done
    ]
    emit(done[0] if len(done) == 1 else done, as_json=as_json, text=lambda: "\n".join(lines))


def _show_progress(done: int, total: int) -> None:
    click.echo(f"\r\033[K{done:,} of {total:,} events", nl=done >= total, err=True)


@features.command()
@click.argument("service")
@click.argument("rows", required=False)
@click.option("--to", required=True, help="A .parquet file to write, or the name of a dataset that gets the rows as a version.")
@click.option("--timestamp", default="event_timestamp", show_default=True, help="Column with the moment of each row.")
@click.option(
    "--from", "start", type=click.DateTime(MOMENTS), help="Without ROWS: ask about all entities, from when on (UTC unless it says)."
)
@click.option("--until", "end", type=click.DateTime(MOMENTS), help="Without ROWS: until before when.")
@click.option(
    "--every-hours", type=click.FloatRange(0, min_open=True), help="Without ROWS: every so often, not whenever something happened."
)
@click.option("--source", "sources", multiple=True, metavar="NAME@VERSION", help="Read this version of a source, not the newest one.")
@click.option("--memory-mb", type=click.IntRange(1), default=MEMORY_MB, show_default=True, help="Memory that the join may take, about.")
@click.option("--executor", help="inline, local (a process a core), ray or ray:ADDRESS. Default: the setting 'executor'.")
@click.option("--reason", default="", help="Why.")
@workspace_options
@json_option
def history(
    service: str, rows: str | None, to: str, timestamp: str, start: datetime | None, end: datetime | None, every_hours: float | None,
    sources: tuple[str, ...], memory_mb: int, executor: str | None, reason: str, home: Path | None, project: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Add the features of SERVICE to ROWS (a .parquet, .csv or .tsv file, or a dataset), as they could be known at each row's moment."""
    ws = opened(home, project)
    pinned = {name.partition("@")[0]: name for name in sources}
    asked: pa.Table | list[Path] | str
    if rows is None:
        window = _window(start, end)
        every = timedelta(hours=every_hours) if every_hours is not None else None
        asked = entity_rows(ws, service, window, timestamp=timestamp, every=every, sources=pinned)
    elif start is not None or end is not None or every_hours is not None:
        raise Invalid("ROWS and a span of time were given; expected one of them")
    else:
        path = Path(rows)
        asked = [path] if path.suffix == ".parquet" else read_files(path) if path.suffix else rows
    target = Path(to) if to.endswith(".parquet") else to
    done = history_to(
        ws, asked, service, target, timestamp=timestamp, sources=pinned, memory_mb=memory_mb, executor=executor or ws.settings.executor,
        reason=reason,
    )  # fmt: skip
    read = ", ".join(done.sources.values())
    emit(
        done, as_json=as_json, text=lambda: f"{done.rows:,} rows with {done.service} of {read} are {done.path or f'dataset {done.dataset}'}"
    )


@features.command()
@click.argument("endpoint")
@click.option("--last", type=click.IntRange(1), help="Only the last so many predictions.")
@click.option("--tolerance", type=click.FloatRange(0), default=0.0, show_default=True, help="Relative difference that is none.")
@click.option("--source", "sources", multiple=True, metavar="NAME@VERSION", help="Read this version of a source, not the newest one.")
@click.option(
    "--complete", is_flag=True, help="The datasets hold all that has happened: leave no answer out that came after their last event."
)
@workspace_options
@json_option
def skew(
    endpoint: str, last: int | None, tolerance: float, sources: tuple[str, ...], complete: bool, home: Path | None, project: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Replay what ENDPOINT looked up for its answers, and name each feature that history says otherwise of. Exits with 1 then."""
    pinned = {name.partition("@")[0]: name for name in sources}
    found = replay(opened(home, project), endpoint, last=last, tolerance=tolerance, sources=pinned, complete=complete)
    emit(found, as_json=as_json, text=lambda: told_skew(found))
    if found.mismatches:
        sys.exit(1)


def _window(start: datetime | None, end: datetime | None) -> Window:
    if start is None or end is None:
        raise Invalid("neither ROWS nor a span of time was given; expected a file, a dataset, or --from and --until")
    return Window(start=_utc(start), end=_utc(end))


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _definitions(found: object, target: str) -> list[Definition]:
    listed: Sequence[object] = found if isinstance(found, list | tuple) else [found]
    known = [each for each in listed if isinstance(each, Definition)]
    if len(known) < len(listed):
        raise Invalid(f"{target} is a {type(found).__name__}; expected a source, a FeatureView, a FeatureService or a list of them")
    return known
