"""Monitors: what is watched, against what, how often. Owns their table and that of the windows they have seen."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any

from sqlalchemy import BigInteger, Column, Connection, Index, PrimaryKeyConstraint, Table, select

from tidemill.catalog.events import EventBody
from tidemill.catalog.schema import METADATA, JsonValue, Moment, Text, upsert
from tidemill.checks.check import Verdict
from tidemill.core.codec import decode
from tidemill.core.digest import digest_value
from tidemill.core.errors import Invalid, NotFound
from tidemill.core.ids import Digest, check_name
from tidemill.core.values import Meta, Value
from tidemill.core.window import Window
from tidemill.govern.workspace import Workspace
from tidemill.monitor.report import WindowReport
from tidemill.monitor.table import DETECTORS, load_detector

Share = Annotated[float, Meta(ge=0, le=1)]
Level = Annotated[float, Meta(gt=0, lt=1)]
Count = Annotated[int, Meta(ge=1)]
REFERENCE_TAG = "reference"


class ModelReference(Value, frozen=True, kw_only=True, tag="model", tag_field="kind"):
    """The table that the model version which answered most of the window brought along: the artifact of its tag `reference`.

    Columns as in TableReference.
    """

    timestamp: str = "event_timestamp"
    score: str = "score"
    label: str = "label"


class TableReference(Value, frozen=True, kw_only=True, tag="table", tag_field="kind"):
    """A table: `dataset:NAME@V`, or `artifact:DIGEST` of a Parquet file.

    All columns but timestamp, score and label are features. Rows whose score is missing count for features only: training leaves out
    the scores of rows that the model has learnt from.
    """

    table: str
    timestamp: str = "event_timestamp"
    score: str = "score"
    label: str = "label"


class WindowReference(Value, frozen=True, kw_only=True, tag="window", tag_field="kind"):
    """A past window of the same endpoint's journal, or of the same view's events."""

    window: Window


class TrailingReference(Value, frozen=True, kw_only=True, tag="trailing", tag_field="kind"):
    """The windows just before the one that is looked at, so many of them."""

    windows: Annotated[int, Meta(ge=1, le=1000)] = 4


ReferenceSource = ModelReference | TableReference | WindowReference | TrailingReference


class MonitorSpec(Value, frozen=True, kw_only=True):
    """What a monitor does: it watches what an endpoint answered, or a feature view.

    reference: that of the model for an endpoint, the four windows before for a view, unless told. stale_after: how old the newest event
    of a view may be at a window's end, and how far back it may have been materialised; twice `every` unless told.
    every: length of a window; windows follow one another from `start` (the monitor's making unless told). wait: how long after its
    end a window is looked at, so that labels may come. columns: the features to watch, all of the reference unless told.
    A feature has moved when its effect is greater than the detector's notable one (effect_min over that), greater than in every
    window of the reference itself, and significant at alpha with the false discovery rate held over all features.
    auc_drop, brier_rise, calibration_error: what performance may lose before it counts, if that is significant too.
    recover_after: quiet windows in a row after which an alert closes.
    """

    name: str
    endpoint: str = ""
    view: str = ""
    reference: ReferenceSource | None = None
    stale_after: timedelta | None = None
    every: timedelta = timedelta(days=7)
    start: datetime | None = None
    wait: timedelta = timedelta(0)
    columns: tuple[str, ...] = ()
    detector: str = "psi"
    bins: Annotated[int, Meta(ge=2, le=100)] = 10
    effect_min: Annotated[float, Meta(ge=0)] | None = None
    alpha: Level = 0.01
    missing_change: Share = 0.1
    auc_drop: Share = 0.03
    brier_rise: Share = 0.03
    calibration_error: Share = 0.05
    rows_min: Count = 200
    labels_min: Count = 200
    recover_after: Count = 1

    def __post_init__(self) -> None:
        check_name(self.name, "monitor")
        if bool(self.endpoint) == bool(self.view):
            raise Invalid(f"monitor {self.name!r} watches endpoint {self.endpoint!r} and view {self.view!r}; expected one of the two")
        if self.stale_after is not None and (not self.view or self.stale_after <= timedelta(0)):
            raise Invalid(
                f"monitor {self.name!r} has stale_after {self.stale_after}; expected longer than zero, and only for a feature view"
            )
        if self.view and isinstance(self.reference, ModelReference):
            raise Invalid(f"monitor {self.name!r} holds a feature view against a model; expected the trailing windows, a window or a table")
        if self.every <= timedelta(0) or self.wait < timedelta(0):
            raise Invalid(f"monitor {self.name!r} looks every {self.every} after waiting {self.wait}; expected a window longer than zero")
        if self.detector not in DETECTORS:
            load_detector(self.detector)  # raises, naming the nearest

    @property
    def subject(self) -> str:
        """What is watched, as events and lineage name it."""
        return f"view:{self.view}" if self.view else f"endpoint:{self.endpoint}"

    @property
    def against(self) -> ReferenceSource:
        """The reference, also where none was told."""
        return self.reference or (TrailingReference() if self.view else ModelReference())

    @property
    def stale(self) -> timedelta:
        """From what age on a view is stale."""
        return self.stale_after or 2 * self.every


class Variation(Value, frozen=True, kw_only=True):
    """How far windows of a reference lie from the whole of it: the greatest effect of each column, and how many windows there were."""

    windows: int
    effects: dict[str, float]


MONITORS = Table(
    "monitors",
    METADATA,
    Column("project", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("spec", JsonValue(MonitorSpec), nullable=False),
    Column("actor", Text, nullable=False),
    Column("start", Moment, nullable=False),
    Column("seen_until", Moment, nullable=False),
    PrimaryKeyConstraint("project", "name"),
)

MONITOR_WINDOWS = Table(
    "monitor_windows",
    METADATA,
    Column("project", Text, nullable=False),
    Column("monitor", Text, nullable=False),
    Column("start", Moment, nullable=False),
    Column("end", Moment, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("labels", BigInteger, nullable=False),
    Column("report", Text, nullable=False),
    Column("at", Moment, nullable=False),
    PrimaryKeyConstraint("project", "monitor", "start", "end"),
    Index("ix_monitor_windows_end", "project", "monitor", "end"),
)


BASELINES = Table(  # what a reference varies by itself: found once, for it does not change
    "monitor_baselines",
    METADATA,
    Column("project", Text, nullable=False),
    Column("reference", Text, nullable=False),
    Column("spec", Text, nullable=False),
    Column("variation", JsonValue(Variation), nullable=False),
    PrimaryKeyConstraint("project", "reference", "spec"),
)


class Monitor(Value, frozen=True, kw_only=True):
    """A monitor as kept: what it does, who made it, and up to when it has looked."""

    name: str
    spec: MonitorSpec
    actor: str
    start: datetime
    seen_until: datetime

    @property
    def next_window(self) -> Window:
        """The next window that it will look at by itself."""
        return Window(start=self.seen_until, end=self.seen_until + self.spec.every)

    @property
    def next_due(self) -> datetime:
        """When that window may be looked at."""
        return self.next_window.end + self.spec.wait


class WindowSeen(Value, frozen=True, kw_only=True):
    """A window that a monitor has looked at; the report is an artifact."""

    monitor: str
    start: datetime
    end: datetime
    verdict: Verdict
    rows: int
    labels: int
    report: Digest
    at: datetime


class MonitorSet(EventBody, frozen=True, kw_only=True, tag="monitor.set"):
    """A monitor was made or changed."""

    spec: MonitorSpec


class MonitorNotFound(NotFound):
    """No monitor of that name."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        self.name, self.known = name, tuple(known)
        super().__init__(
            f"there is no monitor {name!r} (there are: {', '.join(known) or 'none'}); "
            "make it with the SDK: client.monitors.set(MonitorSpec(...))"
        )


def create_monitor(ws: Workspace, spec: MonitorSpec, *, reason: str = "") -> Monitor:
    """Make a monitor, or change the one of that name; it goes on behind the last window it has seen. The same again changes nothing."""
    ws.require("monitor.write", spec.name)
    now = ws.clock.now()
    with ws.catalog.transaction() as tx:
        there = _fetch(tx, ws.project, spec.name)
        if there is not None and there.spec == spec:
            return there
        start = spec.start or (there.start if there is not None else now)
        seen = there.seen_until if there is not None and spec.start == there.spec.start else start
        made = Monitor(name=spec.name, spec=spec, actor=ws.actor.id, start=start, seen_until=seen)
        upsert(
            tx,
            MONITORS,
            [{"project": ws.project, "name": spec.name, "spec": spec, "actor": ws.actor.id, "start": start, "seen_until": seen}],
        )
        ws.record(tx, MonitorSet(spec=spec), subject=f"monitor:{spec.name}", reason=reason)
    return made


def read_monitor(ws: Workspace, name: str) -> Monitor:
    """Return a monitor by name. Raises MonitorNotFound."""
    ws.require("monitor.read", name)
    with ws.catalog.reading() as tx:
        found = _fetch(tx, ws.project, name)
        if found is None:
            raise MonitorNotFound(name, [monitor.name for monitor in fetch_monitors(tx, ws.project)])
    return found


def list_monitors(ws: Workspace) -> list[Monitor]:
    """Return the monitors of this project by name."""
    ws.require("monitor.read")
    with ws.catalog.reading() as tx:
        return fetch_monitors(tx, ws.project)


def list_windows(ws: Workspace, monitor: str, *, limit: int = 100) -> list[WindowSeen]:
    """Return the windows that a monitor has looked at, newest first."""
    ws.require("monitor.read", monitor)
    mine = (MONITOR_WINDOWS.c.project == ws.project) & (MONITOR_WINDOWS.c.monitor == monitor)
    query = select(MONITOR_WINDOWS).where(mine).order_by(MONITOR_WINDOWS.c.end.desc(), MONITOR_WINDOWS.c.start).limit(limit)
    with ws.catalog.reading() as tx:
        return [WindowSeen(**{name: getattr(row, name) for name in WindowSeen.__struct_fields__}) for row in tx.execute(query)]


def read_report(ws: Workspace, seen: WindowSeen) -> WindowReport:
    """Return the whole report of a window."""
    ws.require("monitor.read", seen.monitor)
    return decode(ws.objects.get(seen.report), WindowReport, what="a window report")


def fetch_monitors(tx: Connection, project: str) -> list[Monitor]:
    """Return the monitors of a project by name, in the caller's transaction."""
    rows = tx.execute(select(MONITORS).where(MONITORS.c.project == project).order_by(MONITORS.c.name))
    return [_monitor(row) for row in rows]


def write_window(tx: Connection, project: str, seen: WindowSeen) -> None:
    """Keep what was seen of a window, over what was seen of it before; move the monitor on behind it."""
    upsert(tx, MONITOR_WINDOWS, [{"project": project, **{name: getattr(seen, name) for name in seen.__struct_fields__}}])
    mine = (MONITORS.c.project == project) & (MONITORS.c.name == seen.monitor)
    tx.execute(MONITORS.update().where(mine, MONITORS.c.seen_until == seen.start).values(seen_until=seen.end))


def read_variation(tx: Connection, project: str, reference: str, spec: MonitorSpec) -> Variation | None:
    """Return what a reference is known to vary by itself under a spec."""
    wanted = (BASELINES.c.project == project) & (BASELINES.c.reference == reference) & (BASELINES.c.spec == digest_value(spec))
    found: Variation | None = tx.execute(select(BASELINES.c.variation).where(wanted)).scalar_one_or_none()
    return found


def write_variation(tx: Connection, project: str, reference: str, spec: MonitorSpec, variation: Variation) -> None:
    """Keep what a reference varies by itself."""
    upsert(tx, BASELINES, [{"project": project, "reference": reference, "spec": digest_value(spec), "variation": variation}])


def _fetch(tx: Connection, project: str, name: str) -> Monitor | None:
    row = tx.execute(select(MONITORS).where(MONITORS.c.project == project, MONITORS.c.name == name)).one_or_none()
    return None if row is None else _monitor(row)


def _monitor(row: Any) -> Monitor:
    return Monitor(name=row.name, spec=row.spec, actor=row.actor, start=row.start, seen_until=row.seen_until)
