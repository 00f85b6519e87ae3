"""Profiles of dataset versions: what their columns are like, measured once and kept as an artifact. Owns their table."""

import tempfile
from pathlib import Path

from sqlalchemy import select

from tidemill.catalog.schema import upsert
from tidemill.core.codec import canonical, decode
from tidemill.core.ids import Digest
from tidemill.core.values import Value
from tidemill.datasets.measures import Measures, measure_files
from tidemill.datasets.versions import DATASET_PROFILES, DatasetVersion, paths, read_version
from tidemill.govern.workspace import Workspace
from tidemill.store.objects import ObjectNotFound


class Profile(Value, frozen=True, kw_only=True):
    """What a version is like. digest: of its content."""

    name: str
    version: int
    digest: Digest
    measures: Measures


def describe(ws: Workspace, reference: str, *, fresh: bool = False) -> Profile:
    """Return what a version is like, as measured before unless fresh. Raises DatasetNotFound, Invalid for files that are no table."""
    version = read_version(ws, reference)
    kept = None if fresh else _kept(ws, version)
    if kept is not None:
        return kept
    files = paths(ws, version)
    with tempfile.TemporaryDirectory(dir=ws.state) as folder:
        measures = measure_files(files, version.columns, folder=Path(folder))
    made = Profile(name=version.name, version=version.version, digest=version.digest, measures=measures)
    row = {"project": ws.project, "name": made.name, "version": made.version}
    digest = ws.objects.put(canonical(made))
    with ws.catalog.transaction() as tx:
        upsert(tx, DATASET_PROFILES, [{**row, "digest": digest, "created_at": ws.clock.now()}])
    return made


def _kept(ws: Workspace, version: DatasetVersion) -> Profile | None:
    """Return the profile that is kept of this very content, None when there is none."""
    table = DATASET_PROFILES
    mine = (table.c.project == ws.project) & (table.c.name == version.name) & (table.c.version == version.version)
    with ws.catalog.reading() as tx:
        digest = tx.execute(select(table.c.digest).where(mine)).scalar_one_or_none()
    if digest is None:
        return None
    try:
        found = decode(ws.objects.get(Digest(digest)), Profile, what=f"the profile of {version.name}@{version.version}")
    except ObjectNotFound:
        return None
    return found if found.digest == version.digest else None
