"""Where the rows of a batch job come from: a dataset version, a query, a file. All of them come to Parquet files in one order."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.core.codec import decode_any
from tidemill.core.digest import digest_file
from tidemill.core.errors import Conflict, Invalid, NotFound
from tidemill.core.values import Value, field
from tidemill.datasets.versions import DatasetNotFound, DatasetVersion, paths, read_version
from tidemill.govern.workspace import Workspace

SPOOLED = "input.parquet"
SUFFIXES = (".parquet", ".csv", ".tsv")


class Source(Value, frozen=True, kw_only=True):
    """Rows to score. identity: what says that two are the same; nodes: what lineage knows them by; text: for people.

    files: Parquet, in order; empty while the rows still have to be spooled. tables: dataset versions that query reads.
    """

    text: str
    identity: str
    nodes: tuple[str, ...]
    files: tuple[str, ...] = ()
    query: str = ""
    tables: dict[str, DatasetVersion] = field(default_factory=dict)
    csv: str = ""


class QueryRefused(Invalid):
    """A query that DuckDB does not take."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f'the query was not understood: {reason}; expected one SELECT over datasets, named NAME or "NAME@VERSION"')


def from_dataset(ws: Workspace, reference: str) -> Source:
    """Return the rows of a dataset version. Raises DatasetNotFound."""
    version = read_version(ws, reference)
    files = tuple(map(str, paths(ws, version)))
    return Source(text=f"{version.name}@{version.version}", identity=f"dataset:{version.digest}", nodes=(version.node,), files=files)


def from_query(ws: Workspace, query: str) -> Source:
    """Return the rows of a query over datasets, whose versions are pinned now. Raises QueryRefused."""
    tables = {}
    for name in _tables(query):
        try:
            tables[name] = read_version(ws, name)
        except (DatasetNotFound, Invalid):
            continue  # something that DuckDB knows, or will complain of
    pinned = ",".join(f"{name}={version.digest}" for name, version in sorted(tables.items()))
    nodes = tuple(sorted({version.node for version in tables.values()}))
    return Source(text="a query", identity=f"query:{query.strip()}:{pinned}", nodes=nodes, query=query.strip().rstrip(";"), tables=tables)


def from_file(path: Path) -> Source:
    """Return the rows of a Parquet, CSV or TSV file. Raises NotFound."""
    if not path.is_file():
        raise NotFound(f"there is no file {path}; give the path of a .parquet or .csv file")
    digest = digest_file(path)
    named: dict[str, Any] = {"files": (str(path.resolve()),)} if path.suffix == ".parquet" else {"csv": str(path.resolve())}
    return Source(text=path.name, identity=f"file:{path.suffix}:{digest}", nodes=(f"artifact:{digest}",), **named)


def spooled(ws: Workspace, source: Source, folder: Path) -> tuple[Path, ...]:
    """Return the Parquet files of a source: its own, or one in folder that is written now unless it is there.

    A query is asked once a job, so that a job that goes on sees the rows that it began with. Raises QueryRefused, Invalid.
    """
    if source.files:
        return tuple(map(Path, source.files))
    target = folder / SPOOLED
    if not target.exists():
        scratch = folder / f".{SPOOLED}"
        if source.csv:
            _spool_text(Path(source.csv), scratch)
        else:
            _spool_query(ws, source, scratch)
        scratch.replace(target)
    return (target,)


def schema_of(files: Sequence[Path]) -> tuple[pa.Schema, list[int]]:
    """Return the schema that files share, and the rows of each. Raises Invalid when one is no Parquet or differs."""
    schema: pa.Schema | None = None
    rows = []
    for path in files:
        try:
            metadata = pq.read_metadata(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise Invalid(f"{path} could not be read as parquet: {error}") from error
        found = metadata.schema.to_arrow_schema().remove_metadata()
        if schema is not None and not found.equals(schema):
            raise Invalid(f"{path} has other columns than {files[0]}; give one schema, cast the columns with --sql")
        schema = found
        rows.append(metadata.num_rows)
    if schema is None:
        raise Invalid("there are no files to score; expected at least one")
    return schema, rows


def check_unchanged(source: Source) -> None:
    """Raise Conflict when a file of the user's was changed while it was scored."""
    kind, _, rest = source.identity.partition(":")
    if kind == "file" and source.files and digest_file(Path(source.files[0])) != rest.rpartition(":")[2]:
        raise Conflict(f"{source.files[0]} was changed while it was scored; nothing was published, run it again")


def _tables(query: str) -> list[str]:
    """Return the names of the tables that a query reads."""
    with duckdb.connect() as connection:
        ((told,),) = connection.execute("SELECT json_serialize_sql(?)", [query]).fetchall()
    parsed = decode_any(told)
    if parsed["error"]:
        raise QueryRefused(parsed["error_message"])
    if len(parsed["statements"]) != 1:
        raise QueryRefused(f"it has {len(parsed['statements'])} statements")
    return sorted(set(_base_tables(parsed)))


def _base_tables(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if node.get("type") == "BASE_TABLE" and not node["schema_name"]:
            yield node["table_name"]
        for value in node.values():
            yield from _base_tables(value)
    elif isinstance(node, list):
        for value in node:
            yield from _base_tables(value)


def _spool_query(ws: Workspace, source: Source, target: Path) -> None:
    with duckdb.connect() as connection:
        connection.execute("SET temp_directory = ?", [str(target.parent / "duckdb")])
        files = {name: [str(path) for path in paths(ws, version)] for name, version in source.tables.items()}
        # Datasets and nothing else: what is not pinned could change, and a server's files are not for whoever asks it for a query.
        connection.execute("SET allowed_directories = ?", [[str(target.parent)]])
        connection.execute("SET allowed_paths = ?", [sorted({path for each in files.values() for path in each})])
        connection.execute("SET enable_external_access = false")
        for name, places in files.items():
            listed = ", ".join(_quoted(path, "'") for path in places)
            connection.execute(f"CREATE VIEW {_quoted(name, chr(34))} AS SELECT * FROM read_parquet([{listed}])")
        try:
            connection.execute(f"COPY ({source.query}\n) TO {_quoted(str(target), chr(39))} (FORMAT parquet)")
        except duckdb.Error as error:
            raise QueryRefused(str(error).partition("\n")[0]) from error


def _quoted(text: str, mark: str) -> str:
    return f"{mark}{text.replace(mark, 2 * mark)}{mark}"


def _spool_text(path: Path, target: Path) -> None:
    from pyarrow import csv  # (a third of a second, needed for text only)

    try:
        told = csv.ParseOptions(delimiter="\t" if path.suffix == ".tsv" else ",")
        with csv.open_csv(path, parse_options=told) as reader, pq.ParquetWriter(target, reader.schema) as writer:
            for batch in reader:
                writer.write_batch(batch)
    except (pa.ArrowInvalid, OSError) as error:
        raise Invalid(f"{path} could not be read as {path.suffix.lstrip('.')}: {error}") from error
