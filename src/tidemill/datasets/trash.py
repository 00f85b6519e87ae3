"""The trash: dataset versions that were deleted, can be restored, and are removed for good by `purge`."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, select, update

from tidemill.catalog.events import EventBody
from tidemill.catalog.lineage import walk
from tidemill.core.errors import Conflict, NotFound
from tidemill.core.values import replace
from tidemill.datasets.tags import read_tags
from tidemill.datasets.versions import DATASET_PROFILES, DATASET_VERSIONS, DatasetVersion, list_versions, read_version, version_of
from tidemill.govern.workspace import Workspace

_ALL = 1_000_000
_SHOWN = 5


class DatasetDeleted(EventBody, frozen=True, kw_only=True, tag="dataset.deleted"):
    """A version went to the trash."""

    name: str
    version: int


class DatasetRestored(EventBody, frozen=True, kw_only=True, tag="dataset.restored"):
    """A version came back from the trash."""

    name: str
    version: int


class DatasetPurged(EventBody, frozen=True, kw_only=True, tag="dataset.purged"):
    """A version was removed from the trash for good."""

    name: str
    version: int


class DatasetInUse(Conflict):
    """Something was made of a version that is to be deleted."""

    def __init__(self, version: DatasetVersion, users: Sequence[str]) -> None:
        self.version, self.users = version, tuple(users)
        more = f" and {len(users) - _SHOWN} more" if len(users) > _SHOWN else ""
        super().__init__(
            f"dataset {version.name}@{version.version} is used by {', '.join(users[:_SHOWN])}{more}; "
            "delete it all the same with --force: until gc it can be restored"
        )


def delete_versions(ws: Workspace, reference: str, *, force: bool = False, reason: str = "") -> list[DatasetVersion]:
    """Put a version into the trash, of NAME all of them; numbers are not used again. Raises DatasetNotFound, DatasetInUse unless forced."""
    name, _, version = reference.partition("@")
    ws.require("datasets.write", name)
    first = read_version(ws, reference)
    found = [first] if version else list_versions(ws, name, limit=_ALL)
    if not force:
        for each in found:
            if used := users_of(ws, each):
                raise DatasetInUse(each, used)
        tagged = {number: tag for tag, number in read_tags(ws, name).items()}
        for each in found:
            if version and each.version in tagged:
                raise DatasetInUse(each, [f"tag {tagged[each.version]}"])
    now = ws.clock.now()
    with ws.catalog.transaction() as tx:
        for each in found:
            mine = (DATASET_VERSIONS.c.project == ws.project) & (DATASET_VERSIONS.c.name == name)
            tx.execute(update(DATASET_VERSIONS).where(mine, DATASET_VERSIONS.c.version == each.version).values(deleted_at=now))
            ws.record(tx, DatasetDeleted(name=name, version=each.version), subject=f"dataset:{name}", reason=reason)
    return [replace(each, deleted_at=now) for each in found]


def restore_versions(ws: Workspace, reference: str, *, reason: str = "") -> list[DatasetVersion]:
    """Bring a version back from the trash, of NAME all of them. Raises NotFound."""
    name, _, version = reference.partition("@")
    ws.require("datasets.write", name)
    gone = [each for each in list_trash(ws) if each.name == name and (not version or str(each.version) == version.removeprefix("v"))]
    if not gone:
        raise NotFound(f"there is no dataset {reference!r} in the trash; see what is with: tidemill data list --deleted")
    with ws.catalog.transaction() as tx:
        for each in gone:
            mine = (DATASET_VERSIONS.c.project == ws.project) & (DATASET_VERSIONS.c.name == name)
            tx.execute(update(DATASET_VERSIONS).where(mine, DATASET_VERSIONS.c.version == each.version).values(deleted_at=None))
            ws.record(tx, DatasetRestored(name=name, version=each.version), subject=f"dataset:{name}", reason=reason)
    return [replace(each, deleted_at=None) for each in gone]


def list_trash(ws: Workspace) -> list[DatasetVersion]:
    """Return the versions in the trash, the last deleted first."""
    ws.require("datasets.read")
    mine = select(DATASET_VERSIONS).where(DATASET_VERSIONS.c.project == ws.project, DATASET_VERSIONS.c.deleted_at.is_not(None))
    with ws.catalog.reading() as tx:
        rows = tx.execute(mine.order_by(DATASET_VERSIONS.c.deleted_at.desc(), DATASET_VERSIONS.c.name, DATASET_VERSIONS.c.version.desc()))
        return [version_of(row) for row in rows]


def users_of(ws: Workspace, version: DatasetVersion) -> list[str]:
    """Return what was made of a version: lineage nodes other than its successors."""
    ws.require("datasets.read", version.name)
    with ws.catalog.reading() as tx:
        edges = walk(tx, ws.project, version.node, direction="downstream", depth=1)
    return sorted({edge.target for edge in edges if edge.relation != "succeeded"})


def purge(ws: Workspace, *, before: datetime) -> list[str]:
    """Remove what was deleted before a moment for good; return the lineage nodes removed. Events and lineage stay.

    The bytes go when `gc` finds that nothing refers to them.
    """
    ws.require("datasets.admin")
    gone = DATASET_VERSIONS.c.deleted_at < before
    with ws.catalog.transaction() as tx:
        rows = tx.execute(select(DATASET_VERSIONS).where(DATASET_VERSIONS.c.project == ws.project, gone)).all()
        tx.execute(delete(DATASET_VERSIONS).where(DATASET_VERSIONS.c.project == ws.project, gone))
        for row in rows:
            mine = (DATASET_PROFILES.c.project == ws.project) & (DATASET_PROFILES.c.name == row.name)
            tx.execute(delete(DATASET_PROFILES).where(mine, DATASET_PROFILES.c.version == row.version))
            ws.record(tx, DatasetPurged(name=row.name, version=row.version), subject=f"dataset:{row.name}")
    return [version_of(row).node for row in rows]
