"""Datasets and their versions: a name, then immutable trees of Parquet files. Owns their tables."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import BigInteger, Column, Connection, Index, Integer, PrimaryKeyConstraint, Table, func, insert, select

from tidemill.catalog.events import EventBody
from tidemill.catalog.lineage import link
from tidemill.catalog.schema import METADATA, JsonValue, Moment, Text, insert_new
from tidemill.core.errors import Conflict, Invalid, NotFound
from tidemill.core.ids import Digest, EventId, check_name
from tidemill.core.values import Value
from tidemill.datasets.parts import gathered
from tidemill.govern.workspace import Workspace
from tidemill.store.trees import Tree, TreeEntry, read_tree, store_tree

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
    PrimaryKeyConstraint("project", "name", "version"),
    Index("ix_dataset_versions_digest", "project", "digest"),
)


class Dataset(Value, frozen=True, kw_only=True):
    """A name under which versions are kept."""

    name: str
    description: str
    owner: str
    created_at: datetime


class DatasetVersion(Value, frozen=True, kw_only=True):
    """One immutable version: a tree of Parquet files with one schema."""

    name: str
    version: int
    digest: Digest
    rows: int
    size_bytes: int
    columns: dict[str, str]
    created_at: datetime
    actor: str

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
    before: int | None = None
    part: Digest | None = None


class ColumnsDiffer(Invalid):
    """Rows for a dataset have other columns than its newest version."""

    def __init__(self, version: DatasetVersion, columns: Mapping[str, str]) -> None:
        self.version, self.columns = version, dict(columns)
        differ = _difference(version.columns, self.columns)
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
    ws: Workspace,
    name: str,
    source: pa.Table | Sequence[Path] | Path,
    *,
    description: str = "",
    reason: str = "",
    cause: EventId | None = None,
) -> DatasetVersion:
    """Make a version of exactly this content: an Arrow table, or Parquet and CSV files. The same content again is the same version."""
    ws.require("datasets.write", name)
    check_name(name, "dataset")
    files, schema, rows = _files_of(ws, source)
    draft = _draft(ws, name, files, columns=_columns(schema), rows=rows, new_rows=rows)
    with ws.catalog.transaction() as tx:
        return record_draft(tx, ws, draft, description=description, reason=reason, cause=cause)


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
    columns = _columns(table.schema)
    if before is not None and columns != before.columns:
        raise ColumnsDiffer(before, columns)
    old = [entry.digest for entry in read_tree(ws.objects, before.digest).entries] if before is not None else []
    part = _put_parquet(ws, table)
    digests = gathered(ws.objects, [*old, part], folder=ws.state)
    number, rows = (before.version, before.rows) if before is not None else (0, 0)
    new_rows = table.num_rows
    return _draft(ws, name, _named(digests), columns=columns, rows=rows + new_rows, new_rows=new_rows, before=number, part=part)


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
    number = before.version if before is not None else 0
    if draft.before is not None and draft.before != number:
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
    files = _named([ws.objects.put_file(part) for part in parts])
    draft = _draft(ws, name, files, columns=_columns(pq.read_schema(parts[0])), rows=rows, new_rows=rows)
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
    query = select(DATASET_VERSIONS).where(DATASET_VERSIONS.c.project == ws.project, DATASET_VERSIONS.c.name == name)
    if version:
        number = version.removeprefix("v")
        if not number.isdigit():
            raise Invalid(f"dataset reference {reference!r} was not understood; expected NAME or NAME@VERSION, as in flights@3")
        query = query.where(DATASET_VERSIONS.c.version == int(number))
    if at is not None:
        query = query.where(DATASET_VERSIONS.c.created_at <= at)
    with ws.catalog.reading() as tx:
        row = tx.execute(query.order_by(DATASET_VERSIONS.c.version.desc()).limit(1)).one_or_none()
        if row is None:
            known = tx.execute(select(DATASETS.c.name).where(DATASETS.c.project == ws.project).order_by(DATASETS.c.name)).scalars()
            raise DatasetNotFound(reference, list(known))
    return _version(row)


def list_datasets(ws: Workspace) -> list[Dataset]:
    """Return the datasets of this project by name."""
    ws.require("datasets.read")
    with ws.catalog.reading() as tx:
        rows = tx.execute(select(DATASETS).where(DATASETS.c.project == ws.project).order_by(DATASETS.c.name)).all()
    return [Dataset(name=row.name, description=row.description, owner=row.owner, created_at=row.created_at) for row in rows]


def list_versions(ws: Workspace, name: str, *, limit: int = 100) -> list[DatasetVersion]:
    """Return the versions of a dataset, newest first."""
    ws.require("datasets.read", name)
    mine = (DATASET_VERSIONS.c.project == ws.project) & (DATASET_VERSIONS.c.name == name)
    with ws.catalog.reading() as tx:
        rows = tx.execute(select(DATASET_VERSIONS).where(mine).order_by(DATASET_VERSIONS.c.version.desc()).limit(limit)).all()
    return [_version(row) for row in rows]


def paths(ws: Workspace, reference: str | DatasetVersion) -> list[Path]:
    """Return local Parquet files that together hold a version's rows, in order."""
    version = read_version(ws, reference) if isinstance(reference, str) else reference
    return [ws.objects.local_path(entry.digest) for entry in read_tree(ws.objects, version.digest).entries]


def read_schema(ws: Workspace, version: DatasetVersion) -> pa.Schema:
    """Return the columns of a version, as its first file has them."""
    return pq.read_schema(paths(ws, version)[0]).remove_metadata()


def open_table(ws: Workspace, reference: str | DatasetVersion, *, columns: Sequence[str] | None = None) -> pa.Table:
    """Return a version's rows as one Arrow table, of some columns when told."""
    wanted = list(columns) if columns is not None else None
    return pa.concat_tables([pq.read_table(path, columns=wanted) for path in paths(ws, reference)])


def read_files(source: Path | Sequence[Path]) -> pa.Table:
    """Return the rows of Parquet, CSV or TSV files as one table. Raises Invalid, NotFound."""
    files = [source] if isinstance(source, Path) else list(source)
    if not files:
        raise Invalid("a dataset needs at least one file, got none")
    tables = [_read_file(path) for path in files]
    for path, table in zip(files, tables, strict=True):
        if table.schema.names != tables[0].schema.names:
            raise Invalid(f"{path} has other columns than {files[0]}: {_difference(_columns(tables[0].schema), _columns(table.schema))}")
    return pa.concat_tables(tables)


def _files_of(ws: Workspace, source: pa.Table | Sequence[Path] | Path) -> tuple[dict[str, Digest], pa.Schema, int]:
    if isinstance(source, pa.Table):
        return _named([_put_parquet(ws, source)]), source.schema, source.num_rows
    files = [source] if isinstance(source, Path) else list(source)
    table = read_files(files)
    # A Parquet file that a user gave is kept as it is, byte for byte.
    digests = [ws.objects.put_file(path) if path.suffix == ".parquet" else _put_parquet(ws, _read_file(path)) for path in files]
    return _named(digests), table.schema, table.num_rows


def _read_file(path: Path) -> pa.Table:
    if not path.is_file():
        raise NotFound(f"there is no file {path}; give the path of a .parquet or .csv file")
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path)
        if path.suffix in (".csv", ".tsv"):
            from pyarrow import csv  # (a third of a second, needed for text only)

            return csv.read_csv(path, parse_options=csv.ParseOptions(delimiter="\t" if path.suffix == ".tsv" else ","))
    except (pa.ArrowInvalid, OSError) as error:
        raise Invalid(f"{path} could not be read as {path.suffix.lstrip('.')}: {error}") from error
    raise Invalid(f"{path} is of a kind that is not understood; expected .parquet, .csv or .tsv")


def _put_parquet(ws: Workspace, table: pa.Table) -> Digest:
    with tempfile.TemporaryDirectory(dir=ws.state) as folder:
        path = Path(folder) / "part.parquet"
        pq.write_table(table, path, compression="zstd", compression_level=1)
        return ws.objects.put_file(path)


def _named(digests: Sequence[Digest]) -> dict[str, Digest]:
    return {f"part-{number:05d}.parquet": digest for number, digest in enumerate(digests)}


def _draft(
    ws: Workspace, name: str, files: Mapping[str, Digest], *, columns: dict[str, str], rows: int, new_rows: int,
    before: int | None = None, part: Digest | None = None,
) -> Draft:  # fmt: skip
    entries = tuple(TreeEntry(path=path, digest=digest, size_bytes=ws.objects.size(digest)) for path, digest in sorted(files.items()))
    tree = Tree(entries=entries)
    return Draft(
        name=name, digest=store_tree(ws.objects, tree), size_bytes=tree.size_bytes, rows=rows, new_rows=new_rows, columns=columns,
        before=before, part=part,
    )  # fmt: skip


def _newest(tx: Connection, project: str, name: str) -> DatasetVersion | None:
    mine = (DATASET_VERSIONS.c.project == project) & (DATASET_VERSIONS.c.name == name)
    newest = select(func.max(DATASET_VERSIONS.c.version)).where(mine).scalar_subquery()
    row = tx.execute(select(DATASET_VERSIONS).where(mine, DATASET_VERSIONS.c.version == newest)).one_or_none()
    return None if row is None else _version(row)


def _columns(schema: pa.Schema) -> dict[str, str]:
    return {field.name: str(field.type) for field in schema}


def _difference(expected: dict[str, str], found: dict[str, str]) -> str:
    parts = [f"missing {name}" for name in expected if name not in found]
    parts += [f"unknown {name}" for name in found if name not in expected]
    parts += [f"{name} is {found[name]}, expected {kind}" for name, kind in expected.items() if name in found and found[name] != kind]
    return ", ".join(parts) or "their order differs"


def _version(row: Any) -> DatasetVersion:
    return DatasetVersion(**{name: getattr(row, name) for name in DatasetVersion.__struct_fields__})
