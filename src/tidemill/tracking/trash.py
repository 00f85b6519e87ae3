"""The trash of tracking: what was deleted, until when it is kept, and what `purge` removes for good."""

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Column, Connection, Select, Table, delete, func, select

from tidemill.catalog.events import EventBody
from tidemill.core.ids import RunId
from tidemill.core.values import Value
from tidemill.govern.workspace import Workspace
from tidemill.tracking import logged_models, traces
from tidemill.tracking.assessments import ASSESSMENTS
from tidemill.tracking.batches import WRITERS
from tidemill.tracking.experiments import EXPERIMENT_TAGS, EXPERIMENTS
from tidemill.tracking.facts import METRICS, PARAMS, TAGS
from tidemill.tracking.files import FILES, within
from tidemill.tracking.inputs import INPUT_DATASETS, RUN_DATASETS, RUN_MODELS
from tidemill.tracking.logged_models import LOGGED_MODELS
from tidemill.tracking.points import BLOCKS, TAIL
from tidemill.tracking.runs import RUNS, Run, delete_run, read_run, restore_run
from tidemill.tracking.traces import TRACE_RUNS, TRACES

AT_ONCE = 100
_OF_RUNS = (PARAMS, TAGS, METRICS, TAIL, BLOCKS, WRITERS, RUN_DATASETS, RUN_MODELS)
_OF_MODELS = (logged_models.PARAMS, logged_models.TAGS, logged_models.METRICS)
_OF_TRACES = (traces.SPANS, traces.TAGS, traces.FACTS, TRACE_RUNS, ASSESSMENTS)


class Trash(Value, frozen=True, kw_only=True):
    """What lies in the trash of one experiment. whole: the experiment itself does. due: how much of it `purge` would remove now."""

    experiment_id: int
    experiment: str
    whole: bool
    keep_days: int
    runs: int
    models: int
    due: int
    next_due: datetime | None


class Purged(Value, frozen=True, kw_only=True):
    """What was removed for good. kept: what was due, and stays because something is made of it. file_bytes: before sharing."""

    experiments: tuple[int, ...] = ()
    runs: tuple[RunId, ...] = ()
    models: tuple[str, ...] = ()
    traces: int = 0
    files: int = 0
    file_bytes: int = 0
    kept: tuple[str, ...] = ()


class _Due(NamedTuple):
    """What of an experiment may go: what was deleted up to a moment; with whole all of it, if the experiment was."""

    experiment: int
    limit: datetime
    whole: bool


class TrashPurged(EventBody, frozen=True, kw_only=True, tag="trash.purged"):
    """Runs, logged models or experiments were removed for good."""

    experiments: tuple[int, ...] = ()
    runs: tuple[RunId, ...] = ()
    models: tuple[str, ...] = ()


def delete_runs(ws: Workspace, runs: Sequence[str]) -> int:
    """Put runs into the trash, with all runs that are part of them; return how many were not in it before.

    Raises RunNotFound before anything is moved.
    """
    ws.require("tracking.write")
    moved = [run for run in _with_parts(ws, runs) if run.deleted_at is None]
    for run in moved:
        delete_run(ws, run.id)
    return len(moved)


def restore_runs(ws: Workspace, runs: Sequence[str]) -> int:
    """Take runs out of the trash, with all runs that are part of them; return how many were in it.

    Raises RunNotFound before anything is moved.
    """
    ws.require("tracking.write")
    moved = [run for run in _with_parts(ws, runs) if run.deleted_at is not None]
    for run in moved:
        restore_run(ws, run.id)
    return len(moved)


def list_trash(ws: Workspace) -> list[Trash]:
    """Return what lies in the trash, by experiment."""
    ws.require("tracking.read")
    now, default = ws.clock.now(), ws.settings.trash_keep_days
    with ws.catalog.reading() as tx:
        dates: dict[int, dict[str, list[datetime]]] = {}
        for name, table in (("runs", RUNS), ("models", LOGGED_MODELS)):
            gone = select(table.c.experiment_id, table.c.deleted_at).where(table.c.project == ws.project, table.c.deleted_at.is_not(None))
            for row in tx.execute(gone):
                dates.setdefault(row.experiment_id, {}).setdefault(name, []).append(row.deleted_at)
        mine = EXPERIMENTS.c.project == ws.project
        wanted = mine & (EXPERIMENTS.c.deleted_at.is_not(None) | EXPERIMENTS.c.id.in_(dates))
        rows = tx.execute(select(EXPERIMENTS).where(wanted).order_by(EXPERIMENTS.c.id)).all()
    found = []
    for row in rows:
        keep = timedelta(days=default if row.keep_days is None else row.keep_days)
        own = dates.get(row.id, {})
        every = [*own.get("runs", ()), *own.get("models", ()), *([row.deleted_at] if row.deleted_at is not None else [])]
        waiting = [moment + keep for moment in every if moment + keep > now]
        found.append(
            Trash(
                experiment_id=row.id,
                experiment=row.name,
                whole=row.deleted_at is not None,
                keep_days=keep.days,
                runs=len(own.get("runs", ())),
                models=len(own.get("models", ())),
                due=len(every) - len(waiting),
                next_due=min(waiting, default=None),
            )
        )
    return found


def purge(ws: Workspace, *, now: bool = False, keep: Collection[str] = ()) -> Purged:
    """Remove for good what has been in the trash for as long as it is kept, or with now all of it, but for lineage nodes to keep.

    Events and lineage stay: what happened has happened. The bytes of files go when `gc` finds that nothing refers to them.
    An experiment goes when nothing of it is kept. What is restored meanwhile stays.
    """
    ws.require("tracking.admin")
    moment, kept = ws.clock.now(), set(keep)
    total = Purged()
    with ws.catalog.reading() as tx:
        experiments = tx.execute(select(EXPERIMENTS).where(EXPERIMENTS.c.project == ws.project).order_by(EXPERIMENTS.c.id)).all()
    for row in experiments:
        days = ws.settings.trash_keep_days if row.keep_days is None else row.keep_days
        limit = moment if now else moment - timedelta(days=days)
        due = _Due(row.id, limit, whole=row.deleted_at is not None and row.deleted_at <= limit)
        part = _purge_within(ws, due, kept)
        if due.whole and not part.kept:
            part = _sum(part, _purge_experiment(ws, due))
        total = _sum(total, part)
    return total


def _with_parts(ws: Workspace, runs: Sequence[str]) -> list[Run]:
    """Return runs and all that are part of them, each once, parents first. Raises RunNotFound."""
    found = {run: read_run(ws, run) for run in dict.fromkeys(runs)}
    wave = list(found)
    while wave:
        with ws.catalog.reading() as tx:
            below = select(RUNS.c.id).where(RUNS.c.project == ws.project, RUNS.c.parent.in_(wave))
            wave = [run for run in tx.execute(below).scalars() if run not in found]
        found.update((run, read_run(ws, run)) for run in wave)
    return list(found.values())


def _purge_within(ws: Workspace, due: _Due, keep: set[str]) -> Purged:
    """Remove the runs and logged models of an experiment that are due."""
    total = Purged()
    for table, prefix, act in ((RUNS, "run", _purge_runs), (LOGGED_MODELS, "logged-model", _purge_models)):
        with ws.catalog.reading() as tx:
            ids = list(tx.execute(_due_rows(ws.project, table, due).order_by(table.c.id)).scalars())
        kept = tuple(f"{prefix}:{one}" for one in ids if f"{prefix}:{one}" in keep)
        total = _sum(total, Purged(kept=kept))
        for some in _in_parts([one for one in ids if f"{prefix}:{one}" not in keep]):
            total = _sum(total, act(ws, due, some))
    return total


def _due_rows(project: str, table: Table, due: _Due) -> Select[Any]:
    mine = select(table.c.id).where(table.c.project == project, table.c.experiment_id == due.experiment)
    return mine if due.whole else mine.where(table.c.deleted_at <= due.limit)


def _still_due(tx: Connection, project: str, table: Table, due: _Due, ids: Sequence[str]) -> list[str]:
    """Return those that nobody has taken out of the trash since they were listed; until the transaction is over nobody can."""
    if due.whole and not _experiment_due(tx, project, due):
        return []
    return list(tx.execute(_due_rows(project, table, due).where(table.c.id.in_(ids)).order_by(table.c.id).with_for_update()).scalars())


def _experiment_due(tx: Connection, project: str, due: _Due) -> bool:
    mine = (EXPERIMENTS.c.project == project) & (EXPERIMENTS.c.id == due.experiment) & (EXPERIMENTS.c.deleted_at <= due.limit)
    return tx.execute(select(EXPERIMENTS.c.id).where(mine).with_for_update()).first() is not None


def _purge_runs(ws: Workspace, due: _Due, ids: Sequence[str]) -> Purged:
    experiment = due.experiment
    with ws.catalog.transaction() as tx:
        runs = _still_due(tx, ws.project, RUNS, due, ids)
        if not runs:
            return Purged()
        numbers = list(tx.execute(select(RUNS.c.no).where(RUNS.c.project == ws.project, RUNS.c.id.in_(runs))).scalars())
        for table in _OF_RUNS:
            tx.execute(delete(table).where(table.c.run.in_(numbers)))
        tx.execute(delete(TRACE_RUNS).where(TRACE_RUNS.c.project == ws.project, TRACE_RUNS.c.run.in_(runs)))
        tx.execute(delete(INPUT_DATASETS).where(INPUT_DATASETS.c.experiment_id == experiment, ~_read_by_any(INPUT_DATASETS.c.no)))
        files = [_drop_files(tx, ws.project, f"{experiment}/{run}") for run in runs]
        tx.execute(delete(RUNS).where(RUNS.c.no.in_(numbers)))
        ws.record(tx, TrashPurged(runs=tuple(RunId(run) for run in runs)), subject=f"experiment:{experiment}")
    return Purged(runs=tuple(RunId(run) for run in runs), files=sum(n for n, _ in files), file_bytes=sum(size for _, size in files))


def _purge_models(ws: Workspace, due: _Due, ids: Sequence[str]) -> Purged:
    experiment = due.experiment
    with ws.catalog.transaction() as tx:
        models = _still_due(tx, ws.project, LOGGED_MODELS, due, ids)
        if not models:
            return Purged()
        for table in _OF_MODELS:
            tx.execute(delete(table).where(table.c.project == ws.project, table.c.model.in_(models)))
        tx.execute(delete(RUN_MODELS).where(RUN_MODELS.c.model.in_(models)))
        files = [_drop_files(tx, ws.project, f"{experiment}/models/{model}") for model in models]
        tx.execute(delete(LOGGED_MODELS).where(LOGGED_MODELS.c.project == ws.project, LOGGED_MODELS.c.id.in_(models)))
        ws.record(tx, TrashPurged(models=tuple(models)), subject=f"experiment:{experiment}")
    return Purged(models=tuple(models), files=sum(n for n, _ in files), file_bytes=sum(size for _, size in files))


def _purge_experiment(ws: Workspace, due: _Due) -> Purged:
    experiment = due.experiment
    with ws.catalog.transaction() as tx:
        if not _experiment_due(tx, ws.project, due):
            return Purged()
        mine = (TRACES.c.project == ws.project) & (TRACES.c.experiment_id == experiment)
        ids = list(tx.execute(select(TRACES.c.id).where(mine)).scalars())
        for some in _in_parts(ids):
            for table in _OF_TRACES:
                tx.execute(delete(table).where(table.c.project == ws.project, table.c.trace.in_(some)))
        tx.execute(delete(TRACES).where(mine))
        files, size = _drop_files(tx, ws.project, str(experiment))
        tx.execute(delete(INPUT_DATASETS).where(INPUT_DATASETS.c.project == ws.project, INPUT_DATASETS.c.experiment_id == experiment))
        tags = EXPERIMENT_TAGS.c
        tx.execute(delete(EXPERIMENT_TAGS).where(tags.project == ws.project, tags.experiment_id == experiment))
        tx.execute(delete(EXPERIMENTS).where(EXPERIMENTS.c.project == ws.project, EXPERIMENTS.c.id == experiment))
        ws.record(tx, TrashPurged(experiments=(experiment,)), subject=f"experiment:{experiment}")
    return Purged(experiments=(experiment,), traces=len(ids), files=files, file_bytes=size)


def _drop_files(tx: Connection, project: str, folder: str) -> tuple[int, int]:
    """Take the files below a folder out of the catalog; return how many they were and how large."""
    below = within(project, folder)
    row = tx.execute(select(func.count(), func.coalesce(func.sum(FILES.c.size_bytes), 0)).where(below)).one()
    if row[0]:
        tx.execute(delete(FILES).where(below))
    return int(row[0]), int(row[1])


def _read_by_any(number: Column[Any]) -> Any:
    return select(RUN_DATASETS.c.run).where(RUN_DATASETS.c.dataset == number).exists()


def _in_parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), AT_ONCE):
        yield ids[start : start + AT_ONCE]


def _sum(one: Purged, other: Purged) -> Purged:
    return Purged(**{name: getattr(one, name) + getattr(other, name) for name in Purged.__struct_fields__})
