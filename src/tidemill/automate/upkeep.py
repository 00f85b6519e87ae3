"""What a workspace no longer needs: the trash whose time is up, then the bytes that nothing refers to any more."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnClause, Connection, column, delete, func, inspect, select, table
from sqlalchemy.types import String

from tidemill.catalog import jobs
from tidemill.catalog.events import EventBody
from tidemill.catalog.jobs import Job
from tidemill.core.clock import EPOCH
from tidemill.core.codec import plain
from tidemill.core.ids import Digest
from tidemill.core.values import Value
from tidemill.datasets import trash as datasets_trash
from tidemill.deploy.endpoints import list_endpoints
from tidemill.deploy.rollouts import list_rollouts
from tidemill.govern.workspace import Workspace, list_projects
from tidemill.pipelines.cache import STEP_CACHE
from tidemill.registry import trash as registry_trash
from tidemill.registry.versions import MODEL_VERSIONS
from tidemill.serving.archive import archived_objects
from tidemill.serving.batch.folders import sweep_jobs
from tidemill.store.objects import ObjectStore
from tidemill.store.upkeep import GcReport, gc
from tidemill.tracking import trash
from tidemill.tracking.files import FILES
from tidemill.tracking.uploads import sweep_parts

# Tables that tell of the past and keep nothing alive (the audit log, lineage), or name no bytes of ours.
_NO_ROOTS = frozenset({"events", "event_heads", "edges", "trace_spans", "api_keys", "tidemill_schema_version", FILES.name})
_DIGEST = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_DIGEST_LETTERS = 64
_ROWS_AT_ONCE = 5000
_AT_ONCE = 500
UPKEEP_JOB = "upkeep"


class Counted(Value, frozen=True, kw_only=True):
    """What lies in a store, counted."""

    objects: int
    size_bytes: int


class Upkept(Value, frozen=True, kw_only=True):
    """What upkeep removed. before and after: the object store, counted anew each time, with what others stored meanwhile.

    removed: objects that nothing referred to; young: unused too, but within the grace of gc_grace_s. catalog: bytes of the catalog's
    file before and after, 0 when it is a server's. parts_bytes: of files that never became whole, and of batch jobs that were left.
    """

    experiments: tuple[int, ...]
    runs: tuple[str, ...]
    logged_models: tuple[str, ...]
    models: tuple[str, ...]
    datasets: tuple[str, ...]
    kept: tuple[str, ...]
    before: Counted
    after: Counted
    removed: int
    removed_bytes: int
    young: int
    young_bytes: int
    parts_bytes: int
    catalog_bytes_before: int
    catalog_bytes_after: int

    @property
    def freed_bytes(self) -> int:
        """What was given back: objects, parts, and what the catalog's file shrank by (its free pages are used again before it grows)."""
        return self.removed_bytes + self.parts_bytes + max(0, self.catalog_bytes_before - self.catalog_bytes_after)


class UpkeepDone(EventBody, frozen=True, kw_only=True, tag="upkeep.done"):
    """Trash whose time was up was removed for good, and objects that nothing referred to. Counts: each thing has an event of its own."""

    experiments: int
    runs: int
    logged_models: int
    models: int
    datasets: int = 0
    objects: int
    freed_bytes: int


def collect(ws: Workspace, *, now: bool = False, grace: timedelta | None = None, compact: bool = False) -> Upkept:
    """Remove for good what has been in the trash for its time (now: all of it), then the objects that nothing refers to any more.

    Of all projects in which the actor may. What something living came of stays: the run of a registered version, a version behind an
    endpoint. grace: how old an unused object has to be, gc_grace_s unless told; less than writers take to record what they stored
    is for a workspace that nobody writes to. compact: write a SQLite catalog anew, so that its file shrinks too.
    """
    ws.require("tracking.admin")
    ws.require("registry.admin")
    ws.require("datasets.admin")
    catalog_before, before = _catalog_bytes(ws), count_objects(ws.objects)
    experiments: list[int] = []
    runs: list[str] = []
    logged: list[str] = []
    models: list[str] = []
    datasets: list[str] = []
    kept: list[str] = []
    for project in list_projects(ws):
        mine = ws.acting(ws.actor, project)
        models += registry_trash.purge(mine, before=_before(mine, now=now), keep=sorted(_served(mine)))
        datasets += datasets_trash.purge(mine, before=_before(mine, now=now))
        purged = trash.purge(mine, now=now, keep=_made_into_models(mine))
        _forget_cached(mine, purged.runs)
        experiments += purged.experiments
        runs += purged.runs
        logged += purged.models
        kept += purged.kept
    parts = sweep_parts(ws) + sweep_jobs(ws, older_than=timedelta(days=ws.settings.trash_keep_days))
    swept = sweep_objects(ws, older_than=timedelta(seconds=ws.settings.gc_grace_s) if grace is None else grace)
    if compact:
        _compact(ws)
    done = Upkept(
        experiments=tuple(experiments),
        runs=tuple(runs),
        logged_models=tuple(logged),
        models=tuple(models),
        datasets=tuple(datasets),
        kept=tuple(kept),
        before=before,
        after=count_objects(ws.objects),
        removed=swept.removed,
        removed_bytes=swept.freed_bytes,
        young=swept.young,
        young_bytes=swept.young_bytes,
        parts_bytes=parts,
        catalog_bytes_before=catalog_before,
        catalog_bytes_after=_catalog_bytes(ws),
    )
    with ws.catalog.transaction() as tx:
        ws.record(tx, _told(done), subject="workspace")
    return done


def upkeep_due(every: timedelta, *, since: datetime, now: datetime) -> datetime | None:
    """Return the latest round moment of a period in (since, now], None when there is none: for a day, the last midnight (UTC)."""
    latest = now - (now - EPOCH) % every
    return latest if latest > since else None


def ask_upkeep(ws: Workspace, *, since: datetime, now: datetime) -> Job | None:
    """Ask for upkeep as a job if its time has come between two moments; None when it has not, or it waits or runs already."""
    ws.require("tracking.admin")
    every = timedelta(hours=ws.settings.gc_every_hours)
    due = upkeep_due(every, since=since, now=now) if every else None
    if due is None:
        return None
    with ws.catalog.transaction() as tx:
        if any(job.kind == UPKEEP_JOB for job in jobs.list_jobs(tx, ws.project, states=("queued", "running"), limit=_AT_ONCE)):
            return None
        key = f"{UPKEEP_JOB}:{due.isoformat()}"  # asked for once, also by a controller that was killed behind this
        return jobs.enqueue(tx, project=ws.project, kind=UPKEEP_JOB, args={}, actor=ws.actor.id, at=now, key=key, priority=-1)


def run_upkeep_job(ws: Workspace, job: Job) -> dict[str, Any]:
    """Do the upkeep that was asked for as a job."""
    told: dict[str, Any] = plain(_told(collect(ws)))
    return told


def sweep_objects(ws: Workspace, *, older_than: timedelta) -> GcReport:
    """Remove the objects that nothing refers to, in any project, if they are that old."""
    ws.require("tracking.admin")
    with ws.catalog.reading() as tx:
        live, leaves = set(roots(tx)), set(tx.execute(select(FILES.c.digest).distinct()).scalars())
    leaves |= set(archived_objects(ws.state))
    return gc(ws.objects, live - leaves, leaves=leaves, older_than=older_than)


def roots(tx: Connection) -> Iterator[Digest]:
    """Yield every digest that any row of any table names, but for FILES and what only tells of the past.

    The database is asked for its tables and texts: a table that is added, or a digest in a tag, keeps its bytes without being listed
    here. What looks like a digest and is none costs nothing.
    """
    inspector = inspect(tx)
    for name in inspector.get_table_names():
        if name in _NO_ROOTS:
            continue
        for each in inspector.get_columns(name):
            if isinstance(each["type"], String):
                words: ColumnClause[str] = column(each["name"])
                query = select(words).select_from(table(name, words)).where(func.length(words) >= _DIGEST_LETTERS)
                for (found,) in tx.execute(query.execution_options(yield_per=_ROWS_AT_ONCE)):
                    yield from map(Digest, _DIGEST.findall(found))


def count_objects(store: ObjectStore) -> Counted:
    """Count what lies in a store."""
    objects = size = 0
    for entry in store.stored():
        objects += 1
        size += entry.size_bytes
    return Counted(objects=objects, size_bytes=size)


def _told(done: Upkept) -> UpkeepDone:
    return UpkeepDone(
        experiments=len(done.experiments),
        runs=len(done.runs),
        logged_models=len(done.logged_models),
        models=len(done.models),
        datasets=len(done.datasets),
        objects=done.removed,
        freed_bytes=done.freed_bytes,
    )


def _before(ws: Workspace, *, now: bool) -> datetime:
    return ws.clock.now() + timedelta(microseconds=1) if now else ws.clock.now() - timedelta(days=ws.settings.trash_keep_days)


def _served(ws: Workspace) -> set[str]:
    """Return the lineage nodes of the model versions that stand behind an endpoint, or are on their way there."""
    found = set()
    for endpoint in list_endpoints(ws):
        variants = [*endpoint.route.variants, *([endpoint.benchmark] if endpoint.benchmark is not None else [])]
        found |= {f"model:{variant.model}@{variant.version}" for variant in variants}
    for rollout in list_rollouts(ws, state="running", limit=1000):
        found |= {f"model:{variant.model}@{variant.version}" for variant in (rollout.champion, rollout.challenger)}
    return found


def _made_into_models(ws: Workspace) -> set[str]:
    """Return the lineage nodes of the runs and logged models that registered versions came of."""
    mine = MODEL_VERSIONS.c.project == ws.project
    with ws.catalog.reading() as tx:
        rows = tx.execute(select(MODEL_VERSIONS.c.run, MODEL_VERSIONS.c.logged_model).where(mine)).all()
    return {f"run:{row.run}" for row in rows if row.run} | {f"logged-model:{row.logged_model}" for row in rows if row.logged_model}


def _forget_cached(ws: Workspace, runs: tuple[str, ...]) -> None:
    """Take what runs left in the step cache out of it."""
    for start in range(0, len(runs), _AT_ONCE):
        some = runs[start : start + _AT_ONCE]
        with ws.catalog.transaction() as tx:
            tx.execute(delete(STEP_CACHE).where(STEP_CACHE.c.project == ws.project, STEP_CACHE.c.run.in_(some)))


def _catalog_bytes(ws: Workspace) -> int:
    path = ws.catalog.path
    if path is None:
        return 0
    return sum(file.stat().st_size for file in (path, path.with_name(path.name + "-wal")) if file.exists())


def _compact(ws: Workspace) -> None:
    if ws.catalog.path is None:
        return  # PostgreSQL gives its pages back by itself (autovacuum)
    with closing(sqlite3.connect(ws.catalog.path, isolation_level=None, timeout=60)) as connection:
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
