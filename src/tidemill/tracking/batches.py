"""Batches: what is logged to a run in one call, all of it or nothing. Owns the table of writers."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Column, PrimaryKeyConstraint, Table, select, update
from sqlalchemy.dialects.postgresql import insert as insert_or  # what is used of it here reads the same on SQLite

from tidemill.catalog.prepared import Prepared
from tidemill.catalog.schema import METADATA, Text
from tidemill.core.clock import micros
from tidemill.core.codec import decode_any, encode_text
from tidemill.core.errors import Invalid
from tidemill.core.ids import check_key
from tidemill.core.values import Value
from tidemill.govern.workspace import Workspace
from tidemill.tracking import facts, points
from tidemill.tracking.logged_models import ModelPoint, write_model_points
from tidemill.tracking.points import Points
from tidemill.tracking.runs import RUNS, find_run

# Which writer's points a run has up to which number, so that points that are sent again count once.
WRITERS = Table(
    "run_writers",
    METADATA,
    Column("run", BigInteger, nullable=False),
    Column("writer", Text, nullable=False),
    Column("number", BigInteger, nullable=False),
    PrimaryKeyConstraint("run", "writer"),
)


# In one statement, so that of two who send the same at once one waits, and finds it counted.
_COMING = insert_or(WRITERS)
_COUNT = Prepared(
    _COMING.on_conflict_do_update(
        index_elements=["run", "writer"], set_={"number": _COMING.excluded.number}, where=WRITERS.c.number < _COMING.excluded.number
    )
)


class Metric(Value, frozen=True, kw_only=True):
    """One point of one metric; NaN and infinities are kept. model: the logged model that it measures, dataset: what on."""

    key: str
    value: float
    step: int = 0
    at: datetime | None = None


class Series(Value, frozen=True, kw_only=True):
    """Points of one metric as columns of little-endian bytes: values as float64, steps and times (microseconds since 1970) as int64."""

    key: str
    values: bytes
    steps: bytes
    times: bytes

    def __post_init__(self) -> None:
        sizes = {len(self.values), len(self.steps), len(self.times)}
        if len(sizes) > 1 or len(self.values) % 8:
            raise Invalid(
                f"series {self.key!r} has columns of {len(self.values)}, {len(self.steps)} and {len(self.times)} bytes; "
                "expected three equal columns of 8 bytes a point"
            )


def log_batch(
    ws: Workspace,
    run: str,
    *,
    metrics: Sequence[Metric] = (),
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Write points, params and tags of a run, all or nothing. Raises RunNotFound, RunInTrash, ParamRewritten, Invalid."""
    ws.require("tracking.write", run)
    now = micros(ws.clock.now())
    rows = [(point.key, point.value, point.step, now if point.at is None else micros(point.at)) for point in metrics]
    log_rows(ws, run, rows, params=params, tags=tags)


def log_rows(
    ws: Workspace,
    run: str,
    rows: Sequence[tuple[str, float, int, int]],
    *,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    name: str | None = None,
    measured: Mapping[str, Sequence[ModelPoint]] | None = None,
) -> None:
    """Do what log_batch does, with points as plain tuples: key, value, step, microseconds since 1970. For protocols in a hurry.

    name: the run's new name. measured: points of logged models, by their ids; raises LoggedModelNotFound.
    """
    ws.require("tracking.write", run)
    for key in {row[0] for row in rows}:
        check_key("metric", key)
    with ws.catalog.transaction() as tx:
        found = find_run(tx, ws.project, run)
        facts.write_params(tx, found.no, found.experiment_id, params or {}, run=run)
        if tags:
            facts.write_tags(tx, found.no, found.experiment_id, tags)
        if rows:
            facts.write_latest(tx, found.no, found.experiment_id, rows)
            points.append(tx, found.no, rows)
        if name is not None:
            tx.execute(update(RUNS).where(RUNS.c.no == found.no).values(name=name))
        if measured:
            write_model_points(ws, tx, measured)


def log_params(ws: Workspace, run: str, params: Mapping[str, Any]) -> None:
    """Write params once. Raises RunNotFound, RunInTrash, ParamRewritten for another value under a key, Invalid."""
    log_batch(ws, run, params=params)


def log_metrics(ws: Workspace, run: str, metrics: Sequence[Metric] | Mapping[str, float]) -> None:
    """Add points to the histories of metrics, in order. Raises RunNotFound, RunInTrash, Invalid."""
    listed = [Metric(key=key, value=float(value)) for key, value in metrics.items()] if isinstance(metrics, Mapping) else metrics
    log_batch(ws, run, metrics=listed)


def log_series(ws: Workspace, run: str, series: Sequence[Series], *, writer: str, number: int) -> None:
    """Add whole columns of points. writer names the sender, number counts what it sent: sent again, it counts once.

    Raises RunNotFound, RunInTrash, Invalid.
    """
    ws.require("tracking.write", run)
    for item in series:
        check_key("metric", item.key)
    pieces = [(item.key, item.values, item.steps, item.times) for item in series if item.values]
    with ws.catalog.transaction() as tx:
        found = find_run(tx, ws.project, run)
        if _COUNT.run(tx, {"run": found.no, "writer": writer, "number": number}).rowcount == 0:
            return  # it has been counted
        latest = [point for piece in pieces for point in _last_point(piece[0], points.points_of(*piece[1:]))]
        facts.write_latest(tx, found.no, found.experiment_id, latest)
        points.append_columns(tx, found.no, pieces)


def set_tags(ws: Workspace, run: str, tags: Mapping[str, str]) -> None:
    """Write tags, replacing those of the same key. Raises RunNotFound, RunInTrash, Invalid."""
    log_batch(ws, run, tags=tags)


def append_to_tag(ws: Workspace, run: str, key: str, item: Any) -> None:
    """Add an item to the JSON list that a tag holds; the oldest go when it grows too long. Raises RunNotFound, RunInTrash, Invalid."""
    ws.require("tracking.write", run)
    with ws.catalog.transaction() as tx:
        found = find_run(tx, ws.project, run)
        tx.execute(select(RUNS.c.no).where(RUNS.c.no == found.no).with_for_update())  # of two who add at once, one waits
        query = select(facts.TAGS.c.value).where(facts.TAGS.c.run == found.no, facts.TAGS.c.key == key)
        before = tx.execute(query).scalar_one_or_none()
        listed = decode_any(before, what=f"tag {key!r} of run {run}") if before else []
        if not isinstance(listed, list):
            raise Invalid(f"tag {key!r} of run {run} holds no list, so nothing can be added to it; delete the tag")
        listed.append(item)
        while len(text := encode_text(listed)) > facts.TAG_MAX and len(listed) > 1:
            del listed[0]
        facts.write_tags(tx, found.no, found.experiment_id, {key: text})


def _last_point(key: str, given: Points) -> list[tuple[str, float, int, int]]:
    """Return the point of a column that would be the latest: highest step, then time, then value."""
    top = given.steps == given.steps.max()
    top &= given.times == given.times[top].max()
    return [(key, float(value), int(given.steps[top][0]), int(given.times[top][0])) for value in given.values[top]]
