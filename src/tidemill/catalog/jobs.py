"""Jobs: work that some worker process will do, under a lease that it must keep alive. Owns the queue.

Leases run on real time (`core.clock.wall`), since it is machines that die; what a job says of the world it says in workspace time.
"""

from datetime import datetime
from typing import Any, Literal

from sqlalchemy import BigInteger, Column, Connection, Float, Index, Integer, Table, UniqueConstraint, case, func, or_, select, update

from tidemill.catalog.catalog import Catalog
from tidemill.catalog.schema import METADATA, JsonValue, Moment, Text, insert_new
from tidemill.core.errors import Conflict, NotFound
from tidemill.core.ids import EventId, JobId, new_id
from tidemill.core.values import Value

JobState = Literal["queued", "running", "done", "failed", "cancelled"]

JOBS = Table(
    "jobs",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("args", JsonValue(dict[str, Any]), nullable=False),
    Column("actor", Text, nullable=False),
    Column("cause", Text),
    Column("state", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("queued_at", Moment, nullable=False),
    Column("finished_at", Moment),
    Column("attempts", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("worker", Text),
    Column("lease_until_s", Float(53)),
    Column("result", JsonValue(dict[str, Any])),
    Column("error", Text),
    Column("order", BigInteger, nullable=False),
    UniqueConstraint("project", "key"),
    Index("ix_jobs_state", "state", "priority", "order"),
)


class Job(Value, frozen=True, kw_only=True):
    """One piece of work. key makes asking for it twice the same as asking once."""

    id: JobId
    project: str
    kind: str
    key: str
    args: dict[str, Any]
    actor: str
    cause: EventId | None
    state: JobState
    priority: int
    queued_at: datetime
    finished_at: datetime | None
    attempts: int
    max_attempts: int
    worker: str | None
    result: dict[str, Any] | None
    error: str | None


class LeaseLost(Conflict):
    """The worker was silent for too long and another has the job now."""

    def __init__(self, job: JobId, worker: str) -> None:
        self.job, self.worker = job, worker
        super().__init__(
            f"job {job} no longer belongs to worker {worker}: its lease ran out and another took over; its result was not recorded"
        )


def enqueue(
    tx: Connection,
    *,
    project: str,
    kind: str,
    args: dict[str, Any],
    actor: str,
    at: datetime,
    key: str | None = None,
    cause: EventId | None = None,
    priority: int = 0,
    max_attempts: int = 3,
) -> Job:
    """Ask for work. With a key that was asked for before, return that job and add none."""
    job_id = JobId(new_id())
    order = (tx.execute(select(func.max(JOBS.c.order))).scalar_one_or_none() or 0) + 1
    row = {
        "id": job_id, "project": project, "kind": kind, "key": key or job_id, "args": args, "actor": actor, "cause": cause,
        "state": "queued", "priority": priority, "queued_at": at, "attempts": 0, "max_attempts": max_attempts, "order": order,
    }  # fmt: skip
    insert_new(tx, JOBS, [row])
    return _job(tx.execute(select(JOBS).where(JOBS.c.project == project, JOBS.c.key == row["key"])).one())


def claim(catalog: Catalog, *, worker: str, kinds: tuple[str, ...], lease_s: float, wall_s: float, at: datetime) -> Job | None:
    """Take the next job that is queued, or whose worker fell silent; None when there is none.

    A job that was tried max_attempts times and whose worker died again is marked failed instead.
    """
    free = or_(JOBS.c.state == "queued", (JOBS.c.state == "running") & (JOBS.c.lease_until_s < wall_s))
    with catalog.reading() as tx:  # a look without the writers' lock, for idle workers ask often
        if tx.execute(select(JOBS.c.id).where(free, JOBS.c.kind.in_(kinds)).limit(1)).first() is None:
            return None
    with catalog.transaction() as tx:
        given_up = (JOBS.c.state == "running") & (JOBS.c.lease_until_s < wall_s) & (JOBS.c.attempts >= JOBS.c.max_attempts)
        tx.execute(update(JOBS).where(given_up).values(state="failed", error="its worker died each time it was tried", finished_at=at))
        query = (
            select(JOBS.c.id)
            .where(free, JOBS.c.kind.in_(kinds))
            .order_by(JOBS.c.priority.desc(), JOBS.c.order)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        found = tx.execute(query).scalar_one_or_none()
        if found is None:
            return None
        taken = {"state": "running", "worker": worker, "lease_until_s": wall_s + lease_s, "attempts": JOBS.c.attempts + 1}
        tx.execute(update(JOBS).where(JOBS.c.id == found).values(**taken))
        return read_job(tx, JobId(found))


def heartbeat(catalog: Catalog, job: JobId, *, worker: str, lease_s: float, wall_s: float) -> bool:
    """Prolong a lease; False when the job is no longer this worker's and its work should stop."""
    with catalog.transaction() as tx:
        mine = (JOBS.c.id == job) & (JOBS.c.worker == worker) & (JOBS.c.state == "running")
        return bool(tx.execute(update(JOBS).where(mine).values(lease_until_s=wall_s + lease_s)).rowcount)


def finish(
    tx: Connection, job: JobId, *, worker: str, at: datetime, result: dict[str, Any] | None = None, error: str | None = None
) -> None:
    """Record how a job ended. Raises LeaseLost when another worker has it."""
    mine = (JOBS.c.id == job) & (JOBS.c.worker == worker) & (JOBS.c.state == "running")
    ended = {"state": "done" if error is None else "failed", "result": result, "error": error, "finished_at": at, "lease_until_s": None}
    if not tx.execute(update(JOBS).where(mine).values(**ended)).rowcount:
        raise LeaseLost(job, worker)


def cancel(tx: Connection, job: JobId, *, at: datetime) -> Job:
    """Stop a job that has not ended: a queued one never starts, a running one loses its lease. Raises Conflict."""
    open_states = JOBS.c.state.in_(("queued", "running"))
    if not tx.execute(update(JOBS).where(JOBS.c.id == job, open_states).values(state="cancelled", finished_at=at)).rowcount:
        raise Conflict(f"job {job} has ended already ({read_job(tx, job).state}) and cannot be cancelled")
    return read_job(tx, job)


def read_job(tx: Connection, job: JobId) -> Job:
    """Return a job. Raises NotFound."""
    row = tx.execute(select(JOBS).where(JOBS.c.id == job)).one_or_none()
    if row is None:
        raise NotFound(f"there is no job {job}; list them with: tidemill run jobs")
    return _job(row)


def list_jobs(tx: Connection, project: str, *, states: tuple[JobState, ...] = (), limit: int = 100) -> list[Job]:
    """Return jobs of a project, newest first."""
    query = select(JOBS).where(JOBS.c.project == project).order_by(JOBS.c.order.desc()).limit(limit)
    if states:
        query = query.where(JOBS.c.state.in_(states))
    return [_job(row) for row in tx.execute(query)]


def open_count(tx: Connection, project: str) -> int:
    """Return how many jobs of a project are queued or running."""
    busy = case((JOBS.c.state.in_(("queued", "running")), 1), else_=0)
    return int(tx.execute(select(func.coalesce(func.sum(busy), 0)).where(JOBS.c.project == project)).scalar_one())


def _job(row: Any) -> Job:
    return Job(**{name: getattr(row, name) for name in Job.__struct_fields__})
