"""What a Feast registry defines, as sources, views and services of ours: what comes over, and what does not and why. Needs no Feast."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from tidemill.core.errors import Invalid
from tidemill.core.values import Value, replace
from tidemill.features.applied import FeaturePlan, apply, plan
from tidemill.features.feast_registry import FeastDataSource, FeastService, FeastView, Registry, read_registry
from tidemill.features.fetched import SCHEMES
from tidemill.features.sources import FileSource
from tidemill.features.taken import take
from tidemill.features.views import Feature, FeatureKind, FeatureService, FeatureView, check_source, expand
from tidemill.govern.workspace import Workspace

UTC_MICROS = "timestamp[us, tz=UTC]"
KINDS: Mapping[str, FeatureKind] = {
    "BOOL": "double", "DOUBLE": "double", "FLOAT": "double", "INT32": "double", "INT64": "double", "STRING": "string",
}  # fmt: skip
NO_ENTITY = "__dummy"
DATABASES = ("BATCH_BIGQUERY", "BATCH_REDSHIFT", "BATCH_SNOWFLAKE", "BATCH_TRINO", "BATCH_ATHENA")


class Remark(Value, frozen=True, kw_only=True):
    """What is to be known of something of Feast's: why it stays behind, or what is different of it here."""

    kind: str
    name: str
    reason: str


class FeastImport(Value, frozen=True, kw_only=True):
    """What came over from a Feast project, what did not, and what is different now."""

    project: str
    plan: FeaturePlan
    left_out: tuple[Remark, ...] = ()
    different: tuple[Remark, ...] = ()


class Translated(NamedTuple):
    """Definitions of ours by Feast's, in its order, and what stays behind."""

    sources: list[FileSource]
    views: list[FeatureView]
    services: list[FeatureService]
    left_out: list[Remark]
    different: list[Remark]

    @contextmanager
    def or_left_out(self, kind: str, name: str) -> Iterator[None]:
        """Let what is refused stay behind, with the reason."""
        try:
            yield
        except Invalid as error:
            self.left_out.append(Remark(kind=kind, name=name, reason=str(error)))


def import_feast(ws: Workspace, path: Path, *, files: Path | None = None, dry_run: bool = False, reason: str = "") -> FeastImport:
    """Bring the entities, views and services of a Feast project over, with the files that they stand on. Doing it again changes nothing.

    path: what `feast registry-dump` printed, or a repository, for which Feast is asked. files: where paths of files start, the folder of
    path unless told. What cannot be brought is left out and named. dry_run: only say what would change. Raises Invalid, NotFound,
    Unavailable.
    """
    registry = read_registry(path)
    there = _there(ws, translate(registry, files or (path if path.is_dir() else path.parent)))
    if dry_run:
        changes = plan(ws, there.views, there.services, sources=there.sources)
    else:
        changes = apply(
            ws, there.views, there.services, sources=there.sources, reason=reason or f"imported from Feast's {registry.project}"
        )
    return FeastImport(project=registry.project, plan=changes, left_out=tuple(there.left_out), different=tuple(there.different))


def translate(registry: Registry, base: Path) -> Translated:
    """Return what a registry defines as definitions of ours. base: where relative paths of files start."""
    made = Translated([], [], [], [], [])
    keys = {each.spec.name: each.spec.join_key or each.spec.name for each in registry.entities}
    views = [each.spec for each in registry.feature_views]
    read = {view.name: source for view in views if (source := _view_source(view)) is not None}
    for source in {source.name: source for source in read.values()}.values():
        with made.or_left_out("source", source.name):
            made.sources.append(_file_source(source, base))
    sources = {source.name: source for source in made.sources}
    for view in views:
        with made.or_left_out("view", view.name):
            made.views.append(_view(made, view, read.get(view.name), sources, keys))
    for view in views:
        source, batch = read.get(view.name), view.batch_source
        if source is not None and batch is not None and source.name in sources and batch.name != source.name:
            reason = f"its dataset is {source.name!r}, the name that rows are pushed to, not {batch.name!r}"
            made.different.append(Remark(kind="view", name=view.name, reason=reason))
    told = {source.name for view in views for source in (view.batch_source, view.stream_source) if source is not None}
    for source in registry.data_sources:
        if source.name not in told and source.type != "REQUEST_SOURCE":
            made.left_out.append(Remark(kind="source", name=source.name, reason="no feature view reads it"))
    for each in registry.on_demand_feature_views:
        reason = "Python code makes its values; say them as SQL expressions: computed={...} of the feature service, request={...}"
        made.left_out.append(Remark(kind="on-demand view", name=each.spec.name, reason=reason))
    for each in registry.stream_feature_views:
        reason = "Python code makes its values from a stream; declare a source of kind stream, and a view over it"
        made.left_out.append(Remark(kind="stream view", name=each.spec.name, reason=reason))
    known = {view.name: view for view in made.views}
    for entry in registry.feature_services:
        with made.or_left_out("service", entry.spec.name):
            made.services.append(_service(made, entry.spec, known))
    return made


def _there(ws: Workspace, found: Translated) -> Translated:
    """Return what stands on files that are there and hold what is said of them; the rest is left out."""
    kept = Translated([], [], [], found.left_out, found.different)
    columns: dict[str, dict[str, str]] = {}
    for source in found.sources:
        with kept.or_left_out("source", source.name):
            columns[source.name] = take(ws, [source], {})[source.name].columns
    for view in found.views:
        with kept.or_left_out("view", view.name):
            if view.source not in columns:
                raise Invalid(f"its source {view.source!r} is left out")
            check_source(view, columns[view.source])
            kept.views.append(view)
    views = {view.name: view for view in kept.views}
    for service in found.services:
        with kept.or_left_out("service", service.name):
            if gone := [name for name in service.views if name not in views]:
                raise Invalid(f"it asks for features of {gone[0]!r}, which is left out")
            kept.services.append(service)
    used = {view.source for view in kept.views}
    kept.sources.extend(source for source in found.sources if source.name in used)
    return kept


def _view_source(view: FeastView) -> FeastDataSource | None:
    """Return what a view reads, by the name that rows are pushed to."""
    pushed = view.stream_source if view.stream_source is not None and view.stream_source.type == "PUSH_SOURCE" else None
    batch = view.batch_source or (pushed.batch_source if pushed is not None else None)
    return batch if batch is None or pushed is None else replace(batch, name=pushed.name)


def _file_source(source: FeastDataSource, base: Path) -> FileSource:
    if source.type != "BATCH_FILE" or source.file_options is None:
        advice = "kind sql" if source.type in DATABASES else "kind files, sql, stream or push"
        raise Invalid(f"it is of type {source.type}; declare it with {advice}, and the views over it")
    uri = source.file_options.uri.removeprefix("file://")
    if "://" in uri and not uri.startswith(SCHEMES):
        raise Invalid(f"it lies at {uri}; copy its files here, and declare a source of kind files")
    if strange := sorted(set(source.file_options.file_format) - {"parquetFormat"}):
        raise Invalid(f"its files are of {strange[0]}; only Parquet comes over")
    if not source.timestamp_field:
        raise Invalid("it names no timestamp field; views here need to know when something happened")
    path = None if "://" in uri else base / uri
    rename = source.field_mapping
    times = [rename.get(name, name) for name in (source.timestamp_field, source.created_timestamp_column) if name]
    return FileSource(
        name=source.name, files=(_place(uri, path),), rename=rename,
        types=dict.fromkeys(times, UTC_MICROS), description=source.description, owner=source.owner, tags=_tags(source.tags),
    )  # fmt: skip


def _place(uri: str, path: Path | None) -> str:
    """Return where files lie: a folder holds Parquet files, a path below a bucket too unless it names one."""
    if path is None:
        return uri if uri.endswith(".parquet") else f"{uri.rstrip('/')}/*.parquet"
    return f"{path.resolve()}/**/*.parquet" if path.is_dir() else str(path.resolve())


def _view(
    made: Translated, view: FeastView, read: FeastDataSource | None, sources: Mapping[str, FileSource], keys: Mapping[str, str]
) -> FeatureView:  # fmt: skip
    if view.feature_transformation:
        raise Invalid("Python code makes its values; say them as SQL expressions: computed={...} of the view")
    if read is None or read.name not in sources:
        raise Invalid(f"its source {read.name!r} is left out" if read is not None else "it has no batch source")
    source = sources[read.name]
    if not view.entities or NO_ENTITY in view.entities:
        raise Invalid("it has no entity; views here have at least one join key")
    features = [each for each in view.features if each.value_type in KINDS]
    strange = [f"{each.name} ({each.value_type})" for each in view.features if each.value_type not in KINDS]
    if not features:
        raise Invalid(f"its features are neither numbers nor text: {', '.join(strange)}")
    for each in strange:
        made.left_out.append(Remark(kind="feature", name=f"{view.name}:{each}", reason="features here are numbers, booleans and text"))
    created = read.created_timestamp_column
    if created:
        reason = f"a value counts from when it was written ({created}); Feast looks at {created} only to settle ties"
        made.different.append(Remark(kind="view", name=view.name, reason=reason))
    ttl = float(view.ttl.removesuffix("s") or 0)
    return FeatureView(
        name=view.name, entity=tuple(keys.get(name, name) for name in view.entities), source=source.name,
        event_timestamp=source.rename.get(read.timestamp_field, read.timestamp_field),
        created_timestamp=source.rename.get(created, created) or None, ttl=timedelta(seconds=ttl) if ttl else None,
        features=tuple(Feature(name=each.name, kind=KINDS[each.value_type], description=each.description) for each in features),
        description=view.description, owner=view.owner, tags=_tags(view.tags),
    )  # fmt: skip


def _service(made: Translated, service: FeastService, views: Mapping[str, FeatureView]) -> FeatureService:
    wanted = []
    for each in service.features:
        name = each.feature_view_name
        if name not in views:
            raise Invalid(f"it asks for features of {name!r}, which is left out")
        if each.join_key_map:
            renamed = ", ".join(f"{key} as {value}" for key, value in each.join_key_map.items())
            raise Invalid(f"it asks for {name!r} by other join keys ({renamed}); define a view by those keys")
        if each.feature_view_name_alias:
            reason = f"the full name of a feature of {name!r} begins with {name!r}, not with the alias {each.feature_view_name_alias!r}"
            made.different.append(Remark(kind="service", name=service.name, reason=reason))
        wanted += [f"{name}:{column.name}" for column in each.feature_columns]
    found = FeatureService(
        name=service.name, features=tuple(wanted), description=service.description, owner=service.owner, tags=_tags(service.tags)
    )
    expand(found, views)
    return found


def _tags(tags: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"{key}={value}" if value else key for key, value in sorted(tags.items()))
