"""What takes how much disk: runs, datasets, models, and what the workspace keeps beside them."""

import shutil
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Connection, func, select

from tidemill.automate.upkeep import Counted, count_objects, sweep_objects
from tidemill.core.values import Value
from tidemill.datasets.versions import DATASET_VERSIONS
from tidemill.govern.workspace import DEFAULT_PROJECT, Workspace, list_projects
from tidemill.registry.models import MODELS
from tidemill.registry.versions import MODEL_VERSIONS
from tidemill.store.objects import ObjectNotFound
from tidemill.store.trees import read_tree
from tidemill.tracking.experiments import EXPERIMENTS
from tidemill.tracking.files import FILES
from tidemill.tracking.points import BLOCKS, TAIL
from tidemill.tracking.runs import RUNS

_ROWS_AT_ONCE = 10_000
_NEVER = timedelta(days=36_500)
# Folders of the state folder -> what they hold. The object store is told of by its owners.
_FOLDERS: Mapping[str, str] = {
    "catalog": "catalog", "journal": "journals", "labels": "journals", "online": "online features", "cache": "caches", "logs": "logs",
    "tmp": "uploads under way", "parts": "uploads under way",
}  # fmt: skip


class Owner(Value, frozen=True, kw_only=True):
    """Something that takes disk. size_bytes: before sharing, for what two owners have is stored once; items: files, versions."""

    kind: str
    name: str
    size_bytes: int
    items: int


class DiskUse(Value, frozen=True, kw_only=True):
    """What takes disk. owners: the largest first; totals: kind -> bytes of all; unused: what `tidemill gc` can give back in time."""

    owners: tuple[Owner, ...]
    totals: dict[str, int]
    objects: Counted
    unused: Counted
    free_bytes: int


def disk_use(ws: Workspace, *, limit: int = 20) -> DiskUse:
    """Return what takes how much disk, in all projects that the actor may see. Reads every name there is: seconds, where much is kept."""
    ws.require("tracking.admin")
    owners = [*_beside(ws.state)]
    with ws.catalog.reading() as tx:
        for project in list_projects(ws):
            shown = "" if project == DEFAULT_PROJECT else f"{project}: "
            owners += [*_runs(tx, project, shown), *_models(tx, project, shown), *_datasets(ws, tx, project, shown)]
    totals: dict[str, int] = {}
    for owner in owners:
        totals[owner.kind] = totals.get(owner.kind, 0) + owner.size_bytes
    unused = sweep_objects(ws, older_than=_NEVER)
    return DiskUse(
        owners=tuple(sorted(owners, key=lambda owner: owner.size_bytes, reverse=True)[:limit]),
        totals=dict(sorted(totals.items(), key=lambda item: item[1], reverse=True)),
        objects=count_objects(ws.objects),
        unused=Counted(objects=unused.young, size_bytes=unused.young_bytes),
        free_bytes=shutil.disk_usage(ws.state).free,
    )


def _runs(tx: Connection, project: str, shown: str) -> Iterator[Owner]:
    """Yield each run with the bytes of its files and of its metrics' histories."""
    sizes: dict[str, list[int]] = {}  # the second part of a file's path: a run's id, or models, or traces
    rest: dict[str, list[int]] = {}
    query = select(FILES.c.path, FILES.c.size_bytes).where(FILES.c.project == project).execution_options(yield_per=_ROWS_AT_ONCE)
    for path, size in tx.execute(query):
        experiment, _, below = path.partition("/")
        owner, _, tail = below.partition("/")
        known = sizes.setdefault(owner, [0, 0]) if owner not in ("models", "traces") else rest.setdefault(f"{experiment}/{owner}", [0, 0])
        known[0] += size
        known[1] += bool(tail)
    points: dict[int, int] = {}
    for table in (BLOCKS, TAIL):
        for number, size in tx.execute(select(table.c.run, func.sum(func.length(table.c.data))).group_by(table.c.run)):
            points[number] = points.get(number, 0) + int(size)
    named = RUNS.join(EXPERIMENTS, (EXPERIMENTS.c.project == RUNS.c.project) & (EXPERIMENTS.c.id == RUNS.c.experiment_id))
    columns = RUNS.c.no, RUNS.c.id, RUNS.c.name, RUNS.c.deleted_at, EXPERIMENTS.c.name.label("experiment")
    for row in tx.execute(select(*columns).select_from(named).where(RUNS.c.project == project)):
        size, files = sizes.get(row.id, (0, 0))
        trash = ", in the trash" if row.deleted_at is not None else ""
        yield Owner(
            kind="runs", name=f"{shown}{row.experiment} {row.name} ({row.id}{trash})", size_bytes=size + points.get(row.no, 0), items=files
        )
    for name, (size, files) in rest.items():
        kind = "logged models" if name.endswith("models") else "traces"
        yield Owner(kind=kind, name=f"{shown}experiment {name.partition('/')[0]}", size_bytes=size, items=files)


def _models(tx: Connection, project: str, shown: str) -> Iterator[Owner]:
    of_model = MODEL_VERSIONS.join(MODELS, (MODELS.c.project == MODEL_VERSIONS.c.project) & (MODELS.c.key == MODEL_VERSIONS.c.model))
    bundles = (
        select(MODELS.c.name, MODEL_VERSIONS.c.bundle, func.max(MODEL_VERSIONS.c.size_bytes).label("size"), func.count().label("versions"))
        .select_from(of_model)
        .where(MODELS.c.project == project)
        .group_by(MODELS.c.key, MODELS.c.name, MODEL_VERSIONS.c.bundle)
        .subquery()
    )
    query = select(bundles.c.name, func.sum(bundles.c.size), func.sum(bundles.c.versions)).group_by(bundles.c.name)
    for name, size, versions in tx.execute(query):
        yield Owner(kind="models", name=f"{shown}{name}", size_bytes=int(size), items=int(versions))


def _datasets(ws: Workspace, tx: Connection, project: str, shown: str) -> Iterator[Owner]:
    """Yield each dataset with the bytes of all its versions, of which those that versions share are counted once."""
    files: dict[str, dict[str, int]] = {}
    versions: dict[str, int] = {}
    query = select(DATASET_VERSIONS.c.name, DATASET_VERSIONS.c.digest).where(DATASET_VERSIONS.c.project == project)
    for name, digest in tx.execute(query):
        versions[name] = versions.get(name, 0) + 1
        try:
            entries = read_tree(ws.objects, digest).entries
        except ObjectNotFound:  # `tidemill doctor` tells of it
            continue
        files.setdefault(name, {}).update((entry.digest, entry.size_bytes) for entry in entries)
    for name, count in versions.items():
        yield Owner(kind="datasets", name=f"{shown}{name}", size_bytes=sum(files.get(name, {}).values()), items=count)


def _beside(state: Path) -> Iterator[Owner]:
    """Yield what lies in the state folder beside the objects."""
    for path in sorted(state.iterdir()):
        if path.name == "objects":
            continue
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files)
        kind = next((kind for name, kind in _FOLDERS.items() if path.name.startswith(name)), "other files")
        if size:
            yield Owner(kind=kind, name=path.name, size_bytes=size, items=len(files))
