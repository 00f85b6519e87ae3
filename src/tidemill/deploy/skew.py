"""Training-serving skew: what an endpoint looked up when it answered, held against what history says of the same rows and moments.

Both come of one definition, so they are equal bit for bit, unless events came late or were corrected, or a definition is wrong about when
something was known: a feature that looks into the future shows here, since serving could not look there.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemill.core.errors import Invalid
from tidemill.core.values import Value
from tidemill.core.window import Window
from tidemill.datasets.versions import open_table, read_version
from tidemill.deploy.endpoints import read_endpoint
from tidemill.features.definitions import ServiceVersion, read_service
from tidemill.features.history import history
from tidemill.govern.workspace import Workspace
from tidemill.registry.bundles import read_spec
from tidemill.registry.versions import fetch_key
from tidemill.serving.config import endpoint_key
from tidemill.serving.history import inputs, read_predictions
from tidemill.serving.tables import INPUT

EXAMPLES = 5


class Mismatch(Value, frozen=True, kw_only=True):
    """One row of which serving and history say different things. None stands for a missing value."""

    prediction: str
    at: datetime
    entity: dict[str, Any]
    served: float | str | None
    history: float | str | None


class FeatureSkew(Value, frozen=True, kw_only=True):
    """What was found of one feature: rows compared, rows that differ, and some of them, the earliest first.

    view: the version that it comes of; that of the service for a feature that is computed when it is asked for.
    """

    service: str
    view: str
    feature: str
    rows: int
    mismatches: int
    examples: tuple[Mismatch, ...]


class SkewReport(Value, frozen=True, kw_only=True):
    """What was found of an endpoint's predictions, the features that differ most first.

    compared: predictions that were held against history. left_out: why others were not, with their number.
    """

    endpoint: str
    compared: int
    left_out: dict[str, int]
    features: tuple[FeatureSkew, ...]

    @property
    def mismatches(self) -> int:
        """How many values differ."""
        return sum(feature.mismatches for feature in self.features)


def skew(
    ws: Workspace,
    endpoint: str,
    *,
    last: int | None = None,
    window: Window | None = None,
    tolerance: float = 0.0,
    sources: Mapping[str, str] | None = None,
    complete: bool = False,
) -> SkewReport:
    """Replay an endpoint's answers offline: the last so many, or those of a window of event time, or all.

    tolerance: by how much numbers may differ, relative to the larger one. sources: dataset versions to read, as `history` takes them.
    complete: the datasets hold all that has happened; else answers after a dataset's last event are left out. Raises EndpointNotFound,
    Invalid.
    """
    ws.require("deploy.read", endpoint)
    ws.require("features.read", endpoint)
    if (last is not None and last < 1) or tolerance < 0:
        raise Invalid(f"last is {last} and tolerance {tolerance}; expected at least one prediction, and a tolerance of zero or more")
    found = read_endpoint(ws, endpoint)
    told = read_predictions(ws.state, endpoint_key(ws.project, found.name), window, objects=ws.objects)
    told = told.filter(pc.invert(told["shadow"]))
    told = told.slice(max(0, told.num_rows - last)) if last is not None else told
    left_out: dict[str, int] = {}
    compared = 0
    features: dict[tuple[str, str], FeatureSkew] = {}
    for service, rows in _by_service(ws, told, left_out):
        rows = _settled(service, rows, None if complete else _last_events(ws, service, rows, sources), left_out)
        if not rows.num_rows:
            continue
        compared += rows.num_rows
        for each in _compare(ws, service, rows, tolerance=tolerance, sources=sources):
            features[service.reference, each.feature] = each
    ordered = sorted(features.values(), key=lambda each: (-each.mismatches, each.service, each.feature))
    return SkewReport(endpoint=found.name, compared=compared, left_out=left_out, features=tuple(ordered))


def _by_service(ws: Workspace, told: pa.Table, left_out: dict[str, int]) -> Iterator[tuple[ServiceVersion, pa.Table]]:
    """Yield predictions by the feature service that their models pin."""
    kept = told.filter(told["inputs_kept"])
    _count(left_out, "their inputs were not kept", told.num_rows - kept.num_rows)
    told = kept
    services: dict[str, list[pa.Table]] = {}
    for group in told.group_by(["model", "version"]).aggregate([]).to_pylist():
        mine = told.filter(pc.and_(pc.equal(told["model"], group["model"]), pc.equal(told["version"], group["version"])))
        with ws.catalog.reading() as tx:
            version = fetch_key(tx, ws.project, group["model"], group["version"])
        service = read_spec(ws, version.bundle).feature_service if version.bundle is not None else None
        if service is None:
            _count(left_out, "their model looks no features up", mine.num_rows)
        else:
            services.setdefault(service, []).append(mine)
    for reference, tables in sorted(services.items()):
        yield read_service(ws, reference), pa.concat_tables(tables).sort_by("at")


def _last_events(
    ws: Workspace, service: ServiceVersion, rows: pa.Table, sources: Mapping[str, str] | None
) -> datetime | None:  # fmt: skip
    """Return until when the datasets have been told what happened, None for ever.

    A dataset whose events end before the first of the rows does not change; one that ends among them has not been told the rest yet.
    """
    first = pc.min(rows["at"]).as_py()
    ends = []
    for name, column in dict.fromkeys((view.definition.source, view.definition.event_timestamp) for view in service.views):
        times = open_table(ws, read_version(ws, (sources or {}).get(name, name)), columns=[column])[column]
        ends.append(pc.max(times).cast(rows["at"].type, safe=False).as_py())
    return min((end for end in ends if end is not None and first is not None and end >= first), default=None)


def _settled(service: ServiceVersion, rows: pa.Table, until: datetime | None, left_out: dict[str, int]) -> pa.Table:
    """Return the rows for which all is there: the events up to their moments, their join keys, their values."""
    if until is not None:
        known = rows.filter(pc.less_equal(rows["at"], pa.scalar(until, rows["at"].type)))
        _count(left_out, f"the datasets end at {until:%Y-%m-%d %H:%M} UTC, before them", rows.num_rows - known.num_rows)
        rows = known
    keys = {key for view in service.views for key in view.definition.entity}
    hidden = sorted(name for name in {*keys, *service.on_demand.request, *service.feature_names} if INPUT + name not in rows.column_names)
    if hidden and rows.num_rows:
        _count(left_out, f"the journal has no {', '.join(hidden)}", rows.num_rows)
        return rows.slice(0, 0)
    return rows


def _compare(
    ws: Workspace, service: ServiceVersion, rows: pa.Table, *, tolerance: float, sources: Mapping[str, str] | None
) -> Iterator[FeatureSkew]:  # fmt: skip
    brought = inputs(rows)
    of_request = [name for name in service.on_demand.request if name in brought.column_names]
    keys = list(dict.fromkeys([*(key for view in service.views for key in view.definition.entity), *of_request]))
    asked = pa.table({**{key: brought[key] for key in keys}, "event_timestamp": rows["at"]})
    versions = {name: source for name, source in (sources or {}).items() if name in {view.definition.source for view in service.views}}
    expected = history(ws, asked, service, sources=versions)
    looked_up = [
        (f"{view.name}@{view.version}", view.definition.entity, [feature.name for feature in view.definition.features])
        for view in service.views
    ]
    for view, of, features in (*looked_up, (service.reference, keys, sorted(service.definition.computed))):
        for name in (feature for feature in features if feature in service.feature_names):
            differ = np.flatnonzero(_differ(brought[name], expected[name], tolerance))
            examples = [
                Mismatch(
                    prediction=rows["id"][place].as_py(), at=rows["at"][place].as_py(),
                    entity={key: brought[key][place].as_py() for key in of},
                    served=_value(brought[name][place].as_py()), history=_value(expected[name][place].as_py()),
                )
                for place in differ[:EXAMPLES].tolist()
            ]  # fmt: skip
            yield FeatureSkew(
                service=service.reference, view=view, feature=name, rows=rows.num_rows, mismatches=differ.size, examples=tuple(examples)
            )


def _differ(served: Any, expected: Any, tolerance: float) -> NDArray[np.bool_]:
    """Return where two columns differ; two missing values are equal."""
    if not pa.types.is_floating(expected.type):
        one, other = (column.cast(pa.string()).fill_null("\0") for column in (served, expected))
        different: NDArray[np.bool_] = pc.not_equal(one, other).to_numpy()
        return different
    one, other = (column.cast(pa.float64()).fill_null(pa.scalar(np.nan)).to_numpy() for column in (served, expected))
    gone = np.isnan(one) & np.isnan(other)
    with np.errstate(invalid="ignore"):
        near = np.abs(one - other) <= tolerance * np.maximum(np.abs(one), np.abs(other))
    close: NDArray[np.bool_] = ~(gone | near | (one == other))
    return close


def _value(value: Any) -> float | str | None:
    return None if value is None or value != value else value


def _count(left_out: dict[str, int], why: str, number: int) -> None:
    if number:
        left_out[why] = left_out.get(why, 0) + number
