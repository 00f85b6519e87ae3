"""Sources of feature views that are declared: a dataset by that name, and how new versions of it come to be. Owns their table.

Views read dataset versions, whatever they came from; a dataset that somebody adds by hand needs no declaration.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Connection, Index, PrimaryKeyConstraint, Table, insert, select, update

from tidemill.catalog.schema import METADATA, JsonValue, Moment, Text, current
from tidemill.core.errors import Invalid, NotFound
from tidemill.core.ids import check_name
from tidemill.core.settings import mask, with_variables
from tidemill.core.values import Value, field, fields_of, replace
from tidemill.datasets.versions import list_versions
from tidemill.features.views import FeatureService
from tidemill.govern.workspace import Workspace

NAMED_TYPES = ("string", "double", "float", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_TIME = re.compile(r"timestamp\[(s|ms|us|ns), tz=([\w/+:-]+)\]")
_SECRET = ("url", "database", "files")


class _Named(Value, frozen=True, kw_only=True):
    """What all sources have: a name, which is the dataset's, and words on it."""

    name: str
    description: str = ""
    owner: str = ""
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_name(self.name, "source")

    def __repr__(self) -> str:
        told = {name: getattr(self, name) for name in fields_of(type(self))}
        words = ", ".join(f"{name}={_masked(value)!r}" for name, value in told.items() if value)
        return f"{type(self).__name__}({words})"


class FileSource(_Named, frozen=True, kw_only=True, tag="files", tag_field="kind"):
    """Parquet, CSV or TSV files: paths and globs from the workspace's folder on, or of a bucket (s3://, gs://, az://; `fetched` says more).

    Parquet files of a disk are kept as they are, byte for byte.
    rename: new names of columns by those in the files. types: Arrow types that columns (by their new names) are to have, as in
    {"landed_at": "timestamp[us, tz=UTC]"}, which gives times and text without a zone that one. Where either changes something, the files
    are written anew.
    """

    files: tuple[str, ...]
    rename: dict[str, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_columns(self.name, self.types)
        if not self.files:
            raise Invalid(f"source {self.name!r} names no files; expected at least one path or glob")


class SqlSource(_Named, frozen=True, kw_only=True, tag="sql", tag_field="kind"):
    """What a query says: of a database, or without one of datasets (`FROM flights`) and files (`FROM 'late.parquet'`) by DuckDB.

    database: an SQLAlchemy URL; ${NAME} in it stands for a variable of the environment. Say ORDER BY, so that the same rows are the same
    version. types: as of files.
    """

    query: str
    database: str | None = None
    types: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_columns(self.name, self.types)
        if not self.query.strip():
            raise Invalid(f"source {self.name!r} asks nothing; expected a query")


class JoinedSource(_Named, frozen=True, kw_only=True, tag="features", tag_field="kind"):
    """Rows of a dataset with features of views, as they could be known at each row's moment: what features of features are made of.

    rows: the dataset, or another source; a row without a moment is none. timestamp: its column with the moment. features: `view:feature`
    or `view:*` each, of the newest versions.
    """

    rows: str
    timestamp: str
    features: tuple[str, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.joined()  # which says what is wrong of them

    def joined(self) -> FeatureService:
        """Return the features as a service names them. Raises Invalid."""
        return FeatureService(name=self.name, features=self.features)


class StreamSource(_Named, frozen=True, kw_only=True, tag="stream", tag_field="kind"):
    """A topic that `data ingest` takes rows from: redis://HOST:PORT/DB/TOPIC, kafka://BROKER/TOPIC, file:FOLDER/TOPIC.

    ${NAME} in url stands for a variable of the environment. columns: names and Arrow types, so that views can be applied before the first
    row has come. key: the columns that tell rows apart.
    """

    url: str
    columns: dict[str, str] = field(default_factory=dict)
    key: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_columns(self.name, self.columns)
        if self.columns:
            _check_key(self.name, self.key, self.columns)


class PushSource(_Named, frozen=True, kw_only=True, tag="push", tag_field="kind"):
    """Rows that callers send. columns: names and Arrow types, so that views can be applied before the first row has come.

    key: the columns that tell rows apart; with one, rows that are pushed to the views become rows of the dataset, too, each once.
    """

    columns: dict[str, str]
    key: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.columns:
            raise Invalid(f"source {self.name!r} is pushed and declares no columns; expected their names and types")
        check_columns(self.name, self.columns)
        _check_key(self.name, self.key, self.columns)


Source = FileSource | SqlSource | JoinedSource | StreamSource | PushSource
KINDS: Mapping[str, type[Source]] = {
    "files": FileSource, "sql": SqlSource, "features": JoinedSource, "stream": StreamSource, "push": PushSource,
}  # fmt: skip

FEATURE_SOURCES = Table(
    "feature_sources",
    METADATA,
    Column("project", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("declaration", JsonValue(Source), nullable=False),
    Column("actor", Text, nullable=False),
    Column("valid_from", Moment, nullable=False),
    Column("valid_to", Moment),
    PrimaryKeyConstraint("project", "name", "valid_from"),
    Index("ix_feature_sources_current", "project", "name", "valid_to"),
)


class DeclaredSource(Value, frozen=True, kw_only=True):
    """A source as it is declared, passwords masked, and since when; dataset: its newest version, None before the first rows came."""

    declaration: Source
    dataset: str | None
    rows: int
    declared_at: datetime
    actor: str


class SourceNotDeclared(NotFound):
    """Nothing says where a dataset comes from."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        self.name, self.known = name, tuple(known)
        super().__init__(
            f"there is no source {name!r} (declared are: {', '.join(known) or 'none'}); declare it as [features.sources.{name}] of "
            "tidemill.toml, then: tidemill features apply"
        )


def check_columns(name: str, columns: Mapping[str, str]) -> None:
    """Raise Invalid for a column whose type views cannot be made of."""
    for column, kind in columns.items():
        if kind not in NAMED_TYPES and not _TIME.fullmatch(kind):
            known = ", ".join(NAMED_TYPES)
            raise Invalid(f"column {column!r} of source {name!r} is of type {kind!r}; expected one of {known}, or timestamp[us, tz=UTC]")


def _check_key(name: str, key: Sequence[str], columns: Mapping[str, str]) -> None:
    if strange := [column for column in key if column not in columns]:
        raise Invalid(f"source {name!r} has no column {', '.join(strange)} to tell rows apart by (it has: {', '.join(columns)})")


def masked(source: Source) -> Source:
    """Return a source for people to see: without passwords."""
    return replace(source, **{name: _masked(value) for name in _SECRET if (value := getattr(source, name, None)) is not None})


def _masked(value: Any) -> Any:
    """Return text, or each of several, with the secrets of URLs masked; anything else as it is."""
    if isinstance(value, tuple):
        return tuple(map(_masked, value))
    return mask(value) if isinstance(value, str) else value


def declared_sources(tx: Connection, project: str) -> dict[str, Source]:
    """Return the sources of a project as they were declared, by name: with their secrets, so not for people."""
    mine = select(FEATURE_SOURCES.c.declaration).where(FEATURE_SOURCES.c.project == project, current(FEATURE_SOURCES))
    return {source.name: source for source in tx.execute(mine.order_by(FEATURE_SOURCES.c.name)).scalars()}


def read_source(ws: Workspace, name: str) -> Source:
    """Return a source as it was declared, with its secrets. Raises SourceNotDeclared."""
    ws.require("datasets.read", name)
    with ws.catalog.reading() as tx:
        known = declared_sources(tx, ws.project)
    if name not in known:
        raise SourceNotDeclared(name, sorted(known))
    return known[name]


def stream_of(ws: Workspace, name: str) -> tuple[str, tuple[str, ...]]:
    """Return the topic that a declared stream's rows come from, a URL with its secrets, and its key. Raises SourceNotDeclared, Invalid."""
    source = read_source(ws, name)
    if not isinstance(source, StreamSource):
        raise Invalid(f"source {name!r} is no stream; name the topic or folder to take rows from")
    return with_variables(source.url), source.key


def write_source(tx: Connection, ws: Workspace, source: Source, now: datetime) -> None:
    """Let a declaration hold from now on."""
    mine = (FEATURE_SOURCES.c.project == ws.project) & (FEATURE_SOURCES.c.name == source.name) & current(FEATURE_SOURCES)
    since = tx.execute(select(FEATURE_SOURCES.c.valid_from).where(mine)).scalar_one_or_none()
    if since == now:  # changed twice in one moment: the last word counts
        tx.execute(update(FEATURE_SOURCES).where(mine).values(declaration=source, actor=ws.actor.id))
        return
    tx.execute(update(FEATURE_SOURCES).where(mine).values(valid_to=now))
    tx.execute(
        insert(FEATURE_SOURCES).values(project=ws.project, name=source.name, declaration=source, actor=ws.actor.id, valid_from=now)
    )  # fmt: skip


def list_sources(ws: Workspace) -> list[DeclaredSource]:
    """Return the sources that are declared, by name, with what has come of them."""
    ws.require("datasets.read")
    with ws.catalog.reading() as tx:
        mine = select(FEATURE_SOURCES).where(FEATURE_SOURCES.c.project == ws.project, current(FEATURE_SOURCES))
        rows = tx.execute(mine.order_by(FEATURE_SOURCES.c.name)).all()
    found = []
    for row in rows:
        newest = list_versions(ws, row.name, limit=1)
        found.append(
            DeclaredSource(
                declaration=masked(row.declaration),
                dataset=f"{newest[0].name}@{newest[0].version}" if newest else None,
                rows=newest[0].rows if newest else 0,
                declared_at=row.valid_from,
                actor=row.actor,
            )
        )
    return found
