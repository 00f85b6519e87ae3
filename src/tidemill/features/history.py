"""The point-in-time join: features as they could have been known at each row's moment, for training and for audits."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from tidemill.core.codec import encode
from tidemill.core.errors import Invalid
from tidemill.datasets.versions import DatasetVersion, open_table, read_version
from tidemill.features.definitions import ServiceVersion, read_service
from tidemill.features.keys import AskingRows
from tidemill.features.timeline import look_up
from tidemill.features.views import Feature, FeatureView
from tidemill.govern.workspace import Workspace

SOURCES_KEY = b"tidemill.sources"


def history(
    ws: Workspace,
    entities: pa.Table,
    service: str | ServiceVersion,
    *,
    timestamp: str = "event_timestamp",
    sources: Mapping[str, str] | None = None,
) -> pa.Table:
    """Return the same rows in the same order, with the features of a service (`NAME` or `NAME@V`) as of each row's timestamp.

    sources pins the dataset version of a source (`{"flights": "flights@3"}`); the newest one is read otherwise. The versions
    that were read stand in the schema's metadata. Raises Invalid for a missing join key or time, or a column already there.
    """
    found = read_service(ws, service) if isinstance(service, str) else service
    pinned = dict(sources or {})
    needed: dict[str, list[FeatureView]] = {}
    for view in found.views:
        needed.setdefault(view.definition.source, []).append(view.definition)
    strange = sorted(set(pinned) - set(needed))
    if strange:
        raise Invalid(f"feature service {found.name!r} does not read {', '.join(strange)} (it reads: {', '.join(sorted(needed))})")
    versions = {name: read_version(ws, pinned.get(name, name)) for name in needed}
    events = {
        name: open_table(ws, versions[name], columns=list(dict.fromkeys(name for view in views for name in view.needs)))
        for name, views in needed.items()
    }
    joined = join(entities, [view.definition for view in found.views], events, timestamp=timestamp)
    wanted = joined.select([*entities.column_names, *found.feature_names])
    return wanted.replace_schema_metadata({**(wanted.schema.metadata or {}), SOURCES_KEY: encode(_nodes(versions))})


def join(entities: pa.Table, views: Sequence[FeatureView], events: Mapping[str, pa.Table], *, timestamp: str) -> pa.Table:
    """Return entities with the columns of all features of views added. Pure: events holds each view's source by name."""
    asking = {entity: AskingRows(entities, entity, timestamp) for entity in dict.fromkeys(view.entity for view in views)}
    joined = entities
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # sorting and searching leave the interpreter to others
        for view, found in zip(
            views, threads.map(lambda view: look_up(view, events[view.source], asking[view.entity]), views), strict=True
        ):
            for name, column in found.items():
                if name in joined.column_names:
                    raise Invalid(f"feature {name!r} of view {view.name!r} would stand beside a column of that name; rename one of them")
                joined = joined.append_column(name, column)
    return joined


def feature_type(feature: Feature) -> pa.DataType:
    """Return the Arrow type of a feature's column."""
    return pa.float64() if feature.kind == "double" else pa.string()


def _nodes(versions: Mapping[str, DatasetVersion]) -> dict[str, str]:
    return {name: version.node for name, version in versions.items()}
