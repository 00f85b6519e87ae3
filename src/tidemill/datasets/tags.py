"""Tags of dataset versions: names that stand for a version, can be moved, and keep their history. Their table is in `versions`."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import insert, select, update

from tidemill.catalog.events import EventBody
from tidemill.catalog.schema import as_of, current
from tidemill.core.errors import Invalid, NotFound
from tidemill.core.ids import check_name
from tidemill.datasets.versions import DATASET_TAGS, DatasetVersion, read_version
from tidemill.govern.workspace import Workspace


class DatasetTagged(EventBody, frozen=True, kw_only=True, tag="dataset.tagged"):
    """A tag stands for a version from now on, for none when version is none."""

    name: str
    tag: str
    version: int | None


class TagNotFound(NotFound):
    """The dataset has no such tag."""

    def __init__(self, name: str, tag: str, known: Sequence[str]) -> None:
        self.name, self.tag, self.known = name, tag, tuple(known)
        super().__init__(
            f"dataset {name!r} has no tag {tag!r} (it has: {', '.join(known) or 'none'}); set it with: tidemill data tag {name} {tag}"
        )


def tag_version(ws: Workspace, reference: str, tag: str, *, reason: str = "") -> DatasetVersion:
    """Let a tag stand for a version, whatever it stood for before: NAME@TAG is it from now on. Raises Invalid, DatasetNotFound."""
    check_name(tag, "tag")
    if tag.removeprefix("v").isdigit():
        raise Invalid(f"tag {tag!r} reads as a version number; expected a name, as in 'gold'")
    version = read_version(ws, reference)
    ws.require("datasets.write", version.name)
    _set(ws, version.name, tag, version.version, reason=reason)
    return version


def remove_tag(ws: Workspace, name: str, tag: str, *, reason: str = "") -> None:
    """Let a tag stand for nothing. Raises TagNotFound."""
    ws.require("datasets.write", name)
    known = read_tags(ws, name)
    if tag not in known:
        raise TagNotFound(name, tag, sorted(known))
    _set(ws, name, tag, None, reason=reason)


def read_tags(ws: Workspace, name: str, *, at: datetime | None = None) -> dict[str, int]:
    """Return the tags of a dataset and the versions that they stand for, as they are or were at a moment."""
    ws.require("datasets.read", name)
    mine = (DATASET_TAGS.c.project == ws.project) & (DATASET_TAGS.c.name == name) & as_of(DATASET_TAGS, at)
    with ws.catalog.reading() as tx:
        rows = tx.execute(select(DATASET_TAGS.c.tag, DATASET_TAGS.c.version).where(mine).order_by(DATASET_TAGS.c.tag))
        return {row.tag: row.version for row in rows}


def _set(ws: Workspace, name: str, tag: str, version: int | None, *, reason: str) -> None:
    now = ws.clock.now()
    held = (DATASET_TAGS.c.project == ws.project) & (DATASET_TAGS.c.name == name) & (DATASET_TAGS.c.tag == tag) & current(DATASET_TAGS)
    with ws.catalog.transaction() as tx:
        before = tx.execute(select(DATASET_TAGS.c.version, DATASET_TAGS.c.valid_from).where(held)).one_or_none()
        if before is not None and before.version == version:
            return
        if before is not None and before.valid_from == now and version is not None:  # moved twice in one moment: the last word counts
            tx.execute(update(DATASET_TAGS).where(held).values(version=version, actor=ws.actor.id))
        else:
            tx.execute(update(DATASET_TAGS).where(held).values(valid_to=now))
            if version is not None:
                row = {"project": ws.project, "name": name, "tag": tag, "version": version, "actor": ws.actor.id, "valid_from": now}
                tx.execute(insert(DATASET_TAGS).values(**row))
        ws.record(tx, DatasetTagged(name=name, tag=tag, version=version), subject=f"dataset:{name}", reason=reason)
