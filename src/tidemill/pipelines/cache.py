"""The step cache: which fingerprint gave which artifact. Owns its table."""

from sqlalchemy import Column, PrimaryKeyConstraint, Table, select

from tidemill.catalog.schema import METADATA, JsonValue, Moment, Text, upsert
from tidemill.core.ids import Digest, RunId
from tidemill.core.values import Value
from tidemill.govern.workspace import Workspace
from tidemill.pipelines.artifacts import Saved

STEP_CACHE = Table(
    "step_cache",
    METADATA,
    Column("project", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("saved", JsonValue(Saved), nullable=False),
    Column("run", Text, nullable=False),
    Column("at", Moment, nullable=False),
    PrimaryKeyConstraint("project", "fingerprint"),
)


class CacheHit(Value, frozen=True, kw_only=True):
    """The artifact that a fingerprint gave before, and the run that made it."""

    saved: Saved
    run: RunId


def find(ws: Workspace, fingerprint: Digest) -> CacheHit | None:
    """Return the entry of a fingerprint; None when there is none or its artifact is gone."""
    query = select(STEP_CACHE).where(STEP_CACHE.c.project == ws.project, STEP_CACHE.c.fingerprint == fingerprint)
    with ws.catalog.reading() as tx:
        row = tx.execute(query).one_or_none()
    if row is None or not ws.objects.has(row.saved.digest):
        return None
    return CacheHit(saved=row.saved, run=RunId(row.run))


def keep(ws: Workspace, fingerprint: Digest, saved: Saved, run: RunId) -> None:
    """Remember what a fingerprint gave."""
    with ws.catalog.transaction() as tx:
        upsert(tx, STEP_CACHE, [{"project": ws.project, "fingerprint": fingerprint, "saved": saved, "run": run, "at": ws.clock.now()}])
