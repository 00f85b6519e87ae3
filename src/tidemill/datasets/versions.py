"""Datasets and their versions: a name, then immutable trees of files. Owns their tables."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from time import time_ns
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Select,
    Table,
    func,
    insert,
    select,
)

from tidemill.catalog.events import EventBody
from tidemill.catalog.lineage import link
from tidemill.catalog.schema import METADATA, JsonValue, Moment, Text, current, insert_new
from tidemill.core.errors import Conflict, Invalid, NotFound
from tidemill.core.ids import Digest, EventId, check_name
from tidemill.core.values import Value, replace
from tidemill.datasets.content import Content, Watch, files_at, named, own_parts, put_parquet, store_files, store_table, table_paths
from tidemill.datasets.parts import gathered
from tidemill.datasets.places import Held, note_places, read_places, unchanged
from tidemill.datasets.tables import columns_of, difference
from tidemill.govern.workspace import Workspace
from tidemill.store.trees import Tree, read_tree, store_tree

DATASETS = Table(
    "datasets",
    METADATA,
    Column("project", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    PrimaryKeyConstraint("project", "name"),
)

DATASET_VERSIONS = Table(
    "dataset_versions",
    METADATA,
    Column("project", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("digest", Text, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("columns", JsonValue(dict[str, str]), nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("actor", Text, nullable=False),
    Column("files", Integer, nullable=False, server_default="1"),
    Column("new_bytes", BigInteger, nullable=False, server_default="0"),
    Column("deleted_at", Moment),
    PrimaryKeyConstraint("project", "name", "version"),
    Index("ix_dataset_versions_digest", "project", "digest"),
)


DATASET_TAGS = Table(
    "dataset_tags",
    METADATA,
    Column("project", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("tag", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("actor", Text, nullable=False),
    Column("valid_from", Moment, nullable=False),
    Column("valid_to", Moment),
    PrimaryKeyConstraint("project", "name", "tag", "valid_from"),
)

DATASET_PROFILES = Table(
    "dataset_profiles",
    METADATA,
    Column("project", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("digest", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    PrimaryKeyConstraint("project", "name", "version"),
)

Source = pa.Table | Path | Sequence[Path] | Mapping[str, Path]
"""A table; or files, folders and patterns; or files by the names that they shall have."""


class Dataset(Value, frozen=True, kw_only=True):
    """A name under which versions are kept."""

    name: str
    description: str
    owner: str
    created_at: datetime


class DatasetVersion(Value, frozen=True, kw_only=True):
    """One immutable version: a tree of files, which are the rows of one table unless it has no columns.

    new_bytes: by how much the store grew for it, the rest it shares with what was there. deleted_at: when it went to the trash.
    """

    name: str
    version: int
    digest: Digest
    rows: int
    size_bytes: int
    columns: dict[str, str]
    created_at: datetime
    actor: str
    files: int = 1
    new_bytes: int = 0
    deleted_at: datetime | None = None

    @property
    def shared_bytes(self) -> int:
        """How many of its bytes the store had already, in some form."""
        return max(0, self.size_bytes - self.new_bytes)

    @property
    def node(self) -> str:
        """The name of this version in lineage."""
        return f"dataset:{self.name}@{self.version}"


class DatasetAdded(EventBody, frozen=True, kw_only=True, tag="dataset.added"):
    """A dataset got a new version."""

    name: str
    version: int
    digest: Digest
    rows: int
    new_rows: int


class Draft(Value, frozen=True, kw_only=True):
    """A version whose bytes are stored, but of which nobody knows yet. before: the version that it stands on, 0 for none, None for any.

    part: the file that holds the rows that are new.
    """

    name: str
    digest: Digest
    size_bytes: int
    rows: int
    new_rows: int
    columns: dict[str, str]
    files: int
    new_bytes: int
    before: int | None = None
    part: Digest | None = None


class ColumnsDiffer(Invalid):
    """Rows for a dataset have other columns than its newest version."""

    def __init__(self, version: DatasetVersion, columns: Mapping[str, str]) -> None:
        self.version, self.columns = version, dict(columns)
        differ = difference(version.columns, self.columns)
        super().__init__(f"rows for dataset {version.name!r} have other columns than version {version.version}: {differ}")


class Overtaken(Conflict):
    """Another version was made meanwhile."""

    def __init__(self, name: str, version: int) -> None:
        self.name, self.version = name, version
        super().__init__(f"dataset {name!r} got version {version} meanwhile; do it again")


class DatasetNotFound(NotFound):
    """No dataset, or no version of it, by that reference."""

    def __init__(self, reference: str, known: Sequence[str]) -> None:
        self.reference, self.known = reference, tuple(known)
        super().__init__(
            f"there is no dataset {reference!r} (there are: {', '.join(known) or 'none'}); add it with: tidemill data add NAME FILE"
        )


def add(
    ws: Workspace, name: str, source: Source, *, as_table: bool | None = None, description: str = "", reason: str = "",
    cause: EventId | None = None, watch: Watch | None = None,
) -> DatasetVersion:  # fmt: skip
    """Make a version of exactly this content: an Arrow table; or files, folders and patterns, kept byte for byte under their names.

    The same content again is the same version; of what is like the version before only what differs is stored. Files of a kind that is one
    are the rows of a table, unless as_table says no. Files that were added before and have not changed since are not read.
    """
    ws.require("datasets.write", name)
    check_name(name, "dataset")
    before = find_newest(ws, name)
    like = read_tree(ws.objects, before.digest) if before is not None else None
    noted_ns, files = time_ns(), {} if isinstance(source, pa.Table) else files_at(source)
    if isinstance(source, pa.Table):
        content = store_table(ws, source, like=like)
    else:
        known = unchanged(read_places(ws.state, name), files, surely=True)
        content = store_files(ws, files, like=like, known=known, as_table=as_table, watch=watch)
    draft = _draft(ws, name, content, new_rows=content.rows)
    if before is not None and content.columns and content.columns == before.columns and _same_files(like, content.tree):
        draft = replace(draft, digest=before.digest)  # other names for the same
    with ws.catalog.transaction() as tx:
        made = record_draft(tx, ws, draft, description=description, reason=reason, cause=cause)
    if not isinstance(source, pa.Table | Mapping):
        digests = {entry.path: str(entry.digest) for entry in content.tree.entries}
        held = {path: (file.stamp, digests[path]) for path, file in files.items()}
        places = tuple(str(Path(place).absolute()) for place in ([source] if isinstance(source, Path) else source))
        note_places(ws.state, Held(name=name, version=made.version, places=places, noted_ns=noted_ns, files=held))
    return made


def append(ws: Workspace, name: str, table: pa.Table, *, reason: str = "", cause: EventId | None = None) -> DatasetVersion:
    """Make a version that has the newest one's rows and then these; what was there is shared, not copied, but for many small files."""
    while True:
        before = find_newest(ws, name)
        if before is None:
            return add(ws, name, table, reason=reason, cause=cause)
        draft = draft_append(ws, name, table, before)
        try:
            with ws.catalog.transaction() as tx:
                return record_draft(tx, ws, draft, reason=reason, cause=cause)
        except Overtaken:
            continue


def draft_append(ws: Workspace, name: str, table: pa.Table, before: DatasetVersion | None) -> Draft:
    """Store a version that has the rows of one before and then these, for `record_draft`. Raises Invalid for other columns."""
    ws.require("datasets.write", name)
    check_name(name, "dataset")
    columns = columns_of(table.schema)
    if before is not None and columns != before.columns:
        raise ColumnsDiffer(before, columns)
    given, old = own_parts(read_tree(ws.objects, before.digest)) if before is not None else (Tree(entries=()), [])
    part, new_bytes = put_parquet(ws, table)
    tree = named(ws, gathered(ws.objects, [*old, part], folder=ws.state), behind=given)
    number, rows = (before.version, before.rows) if before is not None else (0, 0)
    content = Content(tree, columns, rows + table.num_rows, new_bytes)
    return _draft(ws, name, content, new_rows=table.num_rows, before=number, part=part)


def record_draft(
    tx: Connection, ws: Workspace, draft: Draft, *, description: str = "", reason: str = "", cause: EventId | None = None
) -> DatasetVersion:  # fmt: skip
    """Make a version of what is stored, or return the newest one if it has this content. Raises Overtaken, and then nothing was written."""
    ws.require("datasets.write", draft.name)
    project, name, now = ws.project, draft.name, ws.clock.now()
    insert_new(tx, DATASETS, [{"project": project, "name": name, "description": description, "owner": ws.actor.id, "created_at": now}])
    # Of two who make a version at once, one waits here (SQLite has one writer anyway).
    tx.execute(select(DATASETS.c.name).where(DATASETS.c.project == project, DATASETS.c.name == name).with_for_update())
    before = _newest(tx, project, name)
    mine = (DATASET_VERSIONS.c.project == project) & (DATASET_VERSIONS.c.name == name)
    number = tx.execute(select(func.max(DATASET_VERSIONS.c.version)).where(mine)).scalar_one() or 0  # a number is not used again
    if draft.before is not None and draft.before != (before.version if before is not None else 0):
        raise Overtaken(name, number)
    if before is not None and before.digest == draft.digest:
        return before
    made = DatasetVersion(
        name=name,
        version=number + 1,
        digest=draft.digest,
        rows=draft.rows,
        size_bytes=draft.size_bytes,
        columns=draft.columns,
        created_at=now,
        actor=ws.actor.id,
        files=draft.files,
        new_bytes=draft.new_bytes,
    )
    tx.execute(insert(DATASET_VERSIONS).values(project=project, **{field: getattr(made, field) for field in made.__struct_fields__}))
    if before is not None:
        link(tx, project, source=before.node, target=made.node, relation="succeeded", at=now)
    event = DatasetAdded(name=name, version=made.version, digest=made.digest, rows=made.rows, new_rows=draft.new_rows)
    ws.record(tx, event, subject=f"dataset:{name}", reason=reason, cause=cause)
    return made


def add_parts(
    ws: Workspace,
    name: str,
    parts: Sequence[Path],
    *,
    rows: int,
    reason: str = "",
    beside: Callable[[Connection, DatasetVersion], None] = lambda _tx, _made: None,
) -> DatasetVersion:
    """Make a version of Parquet files in their order, without reading their rows, however many there are.

    They have one schema, and rows rows together. beside writes what belongs to the version (lineage, events) in the same transaction,
    also when the newest version has this content already and is returned.
    """
    ws.require("datasets.write", name)
    check_name(name, "dataset")
    tree = named(ws, [ws.objects.put_file(part) for part in parts])
    content = Content(tree, columns_of(pq.read_schema(parts[0])), rows, tree.size_bytes)
    draft = _draft(ws, name, content, new_rows=rows)
    with ws.catalog.transaction() as tx:
        made = record_draft(tx, ws, draft, reason=reason)
        beside(tx, made)
    return made


def find_newest(ws: Workspace, name: str) -> DatasetVersion | None:
    """Return the newest version of a dataset, None when there is none."""
    ws.require("datasets.read", name)
    with ws.catalog.reading() as tx:
        return _newest(tx, ws.project, name)


def read_version(ws: Workspace, reference: str, *, at: datetime | None = None) -> DatasetVersion:
    """Return the version that `NAME@3` names; for `NAME` the newest one, as of `at` when given. Raises DatasetNotFound."""
    name, _, version = reference.partition("@")
    ws.require("datasets.read", name)
    query = select(DATASET_VERSIONS).where(_living(ws.project, name))
    if version:
        query = query.where(DATASET_VERSIONS.c.version == _number(ws, reference, name, version))
    if at is not None:
        query = query.where(DATASET_VERSIONS.c.created_at <= at)
    with ws.catalog.reading() as tx:
        row = tx.execute(query.order_by(DATASET_VERSIONS.c.version.desc()).limit(1)).one_or_none()
        if row is None:
            raise DatasetNotFound(reference, [found.name for found in tx.execute(_names(ws.project))])
    return version_of(row)


def list_datasets(ws: Workspace) -> list[Dataset]:
    """Return the datasets of this project by name."""
    ws.require("datasets.read")
    with ws.catalog.reading() as tx:
        mine = select(DATASETS).where(DATASETS.c.project == ws.project, DATASETS.c.name.in_(_names(ws.project)))
        rows = tx.execute(mine.order_by(DATASETS.c.name)).all()
    return [Dataset(name=row.name, description=row.description, owner=row.owner, created_at=row.created_at) for row in rows]


def list_versions(ws: Workspace, name: str, *, limit: int = 100) -> list[DatasetVersion]:
    """Return the versions of a dataset, newest first."""
    ws.require("datasets.read", name)
    with ws.catalog.reading() as tx:
        rows = tx.execute(
            select(DATASET_VERSIONS).where(_living(ws.project, name)).order_by(DATASET_VERSIONS.c.version.desc()).limit(limit)
        ).all()
    return [version_of(row) for row in rows]


def paths(ws: Workspace, reference: str | DatasetVersion) -> list[Path]:
    """Return local Parquet files that together hold a version's rows, in order. Raises Invalid for files that are no table."""
    version = read_version(ws, reference) if isinstance(reference, str) else reference
    return table_paths(ws, read_tree(ws.objects, version.digest), version.columns, what=f"dataset {version.name}@{version.version}")


def read_schema(ws: Workspace, version: DatasetVersion) -> pa.Schema:
    """Return the columns of a version, as its first file has them."""
    return pq.read_schema(paths(ws, version)[0]).remove_metadata()


def open_table(ws: Workspace, reference: str | DatasetVersion, *, columns: Sequence[str] | None = None) -> pa.Table:
    """Return a version's rows as one Arrow table, of some columns when told."""
    wanted = list(columns) if columns is not None else None
    tables = [pq.read_table(path, columns=wanted) for path in paths(ws, reference)]
    return pa.concat_tables(tables, promote_options="permissive" if len({table.schema for table in tables}) > 1 else "none")


def _draft(ws: Workspace, name: str, content: Content, *, new_rows: int, before: int | None = None, part: Digest | None = None) -> Draft:
    return Draft(
        name=name, digest=store_tree(ws.objects, content.tree), size_bytes=content.tree.size_bytes, rows=content.rows, new_rows=new_rows,
        columns=content.columns, files=len(content.tree.entries), new_bytes=content.new_bytes, before=before, part=part,
    )  # fmt: skip


def _same_files(before: Tree | None, tree: Tree) -> bool:
    return before is not None and [entry.digest for entry in before.entries] == [entry.digest for entry in tree.entries]


def _number(ws: Workspace, reference: str, name: str, version: str) -> int:
    """Return the version that is meant by what stands behind the @: a number, or a tag. Raises DatasetNotFound, Invalid."""
    number = version.removeprefix("v")
    if number.isdigit():
        return int(number)
    mine = (DATASET_TAGS.c.project == ws.project) & (DATASET_TAGS.c.name == name) & current(DATASET_TAGS)
    with ws.catalog.reading() as tx:
        tags = {row.tag: row.version for row in tx.execute(select(DATASET_TAGS.c.tag, DATASET_TAGS.c.version).where(mine))}
    if version not in tags:
        has = ", ".join(sorted(tags)) or "none"
        raise Invalid(
            f"dataset reference {reference!r} was not understood; expected NAME or NAME@VERSION, as in flights@3, or NAME@TAG (tags: {has})"
        )
    return int(tags[version])


def _living(project: str, name: str) -> ColumnElement[bool]:
    return (DATASET_VERSIONS.c.project == project) & (DATASET_VERSIONS.c.name == name) & DATASET_VERSIONS.c.deleted_at.is_(None)


def _names(project: str) -> Select[tuple[str]]:
    """Return the names of datasets that have a version, in order."""
    living = (DATASET_VERSIONS.c.project == project) & DATASET_VERSIONS.c.deleted_at.is_(None)
    return select(DATASET_VERSIONS.c.name).where(living).distinct().order_by(DATASET_VERSIONS.c.name)


def _newest(tx: Connection, project: str, name: str) -> DatasetVersion | None:
    newest = select(DATASET_VERSIONS).where(_living(project, name)).order_by(DATASET_VERSIONS.c.version.desc()).limit(1)
    row = tx.execute(newest).one_or_none()
    return None if row is None else version_of(row)


def version_of(row: Any) -> DatasetVersion:
    """Return a row of the table as a version."""
    return DatasetVersion(**{name: getattr(row, name) for name in DatasetVersion.__struct_fields__})
