"""What declared sources hold right now: files, the answer of a query, or as yet no rows of known columns. Says nothing of versions."""

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tidemill.core.codec import decode_any
from tidemill.core.errors import Invalid, Unavailable
from tidemill.core.settings import mask, with_variables
from tidemill.datasets.content import read_files
from tidemill.datasets.versions import list_datasets, open_table, paths, read_version
from tidemill.features.fetched import SCHEMES, fetch
from tidemill.features.keys import is_text
from tidemill.features.sources import FileSource, JoinedSource, Source, SqlSource
from tidemill.features.timeline import join
from tidemill.features.views import FeatureView, expand
from tidemill.govern.workspace import Workspace

FETCH_ROWS = 50_000
# One thread sums the same rows, and gives them, in the same order; and a query says the same here and where extensions could be fetched.
ALONE = {"threads": 1, "autoinstall_known_extensions": False, "autoload_known_extensions": False}
_TIME = re.compile(r"timestamp\[(s|ms|us|ns), tz=(.+)\]")


class SourceUnreadable(Invalid):
    """A source does not hold what its declaration says."""

    def __init__(self, name: str, reason: str, advice: str) -> None:
        self.name, self.reason = name, reason
        super().__init__(f"source {name!r} could not be read: {reason}; {advice}")


class Taken(NamedTuple):
    """What a source holds, None when it is not for taking and says no columns; its columns (name to Arrow type).

    origins: the datasets that it was made of: versions (`planes@1`), or names of other sources that were taken along.
    """

    content: pa.Table | list[Path] | None
    columns: dict[str, str]
    origins: tuple[str, ...] = ()


def take(ws: Workspace, sources: Sequence[Source], views: Mapping[str, FeatureView]) -> dict[str, Taken]:
    """Return what sources hold, by name; one may be made of others. views: by name, as they are to be. Raises Invalid, Unavailable."""
    found: dict[str, Taken] = {}
    for source in in_order(sources, views):
        if isinstance(source, FileSource):
            found[source.name] = _files(ws, source)
        elif isinstance(source, SqlSource):
            table, origins = _queried(ws, source, found) if source.database is None else (_fetched(source, source.database), ())
            table = _typed(source.name, _in_utc(table), source.types)
            found[source.name] = Taken(table, _columns(table.schema), origins)
        elif isinstance(source, JoinedSource):
            found[source.name] = _joined(ws, source, found, views)
        else:
            empty = pa.schema([(name, _arrow(kind)) for name, kind in source.columns.items()]).empty_table()
            found[source.name] = Taken(empty if source.columns else None, _columns(empty.schema))
    return found


def _arrow(kind: str) -> pa.DataType:
    time = _TIME.fullmatch(kind)
    unit: Any = time[1] if time else None
    named: Any = kind
    return pa.timestamp(unit, time[2]) if time else pa.type_for_alias(named)


def in_order(sources: Sequence[Source], views: Mapping[str, FeatureView]) -> list[Source]:
    """Return sources with those that one is made of before it. Raises Invalid for a circle."""
    named = {source.name: source for source in sources}
    if len(named) < len(sources):
        names = [source.name for source in sources]
        raise Invalid(f"source {next(name for name in names if names.count(name) > 1)!r} is declared twice; expected distinct names")
    asked = {source.name: _made_of(source, views) for source in sources}
    try:
        order = TopologicalSorter({name: [each for each in asks if each in named] for name, asks in asked.items()}).static_order()
        return [named[name] for name in order]
    except CycleError as error:
        circle = list(reversed(error.args[1]))
        raise Invalid(f"source {circle[0]!r} is made of itself ({' asks '.join(circle)}); expected a query over other sources") from None


def _made_of(source: Source, views: Mapping[str, FeatureView]) -> tuple[str, ...]:
    """Return the datasets that a source is made of. Raises SourceUnreadable, Invalid."""
    if isinstance(source, SqlSource) and source.database is None:
        return _tables(source)
    if isinstance(source, JoinedSource):
        try:
            return tuple(dict.fromkeys([source.rows, *(view.source for view, _ in expand(source.joined(), views))]))
        except Invalid as error:
            raise Invalid(f"source {source.name!r} asks for features that are not there: {error}") from error
    return ()


def _joined(ws: Workspace, source: JoinedSource, others: Mapping[str, Taken], views: Mapping[str, FeatureView]) -> Taken:
    """Join features to the rows of a dataset."""
    wanted = expand(source.joined(), views)
    joining = list({view.name: view for view, _ in wanted}.values())
    tables, origins = {}, []
    for name in _made_of(source, views):
        if name in others and others[name].content is not None:
            origins.append(name)
            tables[name] = _read(others[name].content)
        else:
            version = read_version(ws, name)
            origins.append(f"{version.name}@{version.version}")
            tables[name] = open_table(ws, version)
    rows = tables[source.rows]
    if source.timestamp not in rows.column_names:
        raise SourceUnreadable(source.name, f"there is no time column {source.timestamp!r}", f"{source.rows} has: {_listed(rows)}")
    rows = rows.filter(pc.is_valid(rows.column(source.timestamp)))
    table = join(rows, joining, tables, timestamp=source.timestamp, wanted=[feature.name for _, feature in wanted])
    return Taken(table, _columns(table.schema), tuple(origins))


def _read(content: Any) -> pa.Table:
    return content if isinstance(content, pa.Table) else read_files(content)


def _files(ws: Workspace, source: FileSource) -> Taken:
    with tempfile.TemporaryDirectory(prefix=".taken-", dir=ws.state) as folder:
        files = [file for number, pattern in enumerate(source.files) for file in _matching(ws, source, pattern, Path(folder) / str(number))]
        try:
            found = _schema(files) if all(file.suffix == ".parquet" for file in files) else read_files(files).schema
            as_they_are = all(name in found.names and found.field(name).type == _arrow(kind) for name, kind in source.types.items())
            if as_they_are and not source.rename and not any(file.is_relative_to(folder) for file in files):
                return Taken(files, _columns(found))
            table = read_files(files)
        except (pa.ArrowInvalid, Invalid) as error:
            raise SourceUnreadable(source.name, str(error), "expected Parquet, CSV or TSV files of the same columns") from error
    absent = [name for name in source.rename if name not in table.column_names]
    if absent:
        raise SourceUnreadable(source.name, f"there is no column {', '.join(absent)} to rename", f"there are: {_listed(table)}")
    table = _typed(source.name, table.rename_columns([source.rename.get(name, name) for name in table.column_names]), source.types)
    return Taken(table, _columns(table.schema))


def _schema(files: Sequence[Path]) -> pa.Schema:
    """Return the schema of Parquet files without reading their rows. Raises Invalid."""
    first, *others = [pq.read_schema(file) for file in files]
    for file, schema in zip(files[1:], others, strict=True):
        if schema.names != first.names:
            raise Invalid(f"{file} has other columns ({', '.join(schema.names)}) than {files[0]} ({', '.join(first.names)})")
    return first


def _matching(ws: Workspace, source: FileSource, pattern: str, folder: Path) -> list[Path]:
    """Return the files that a path, glob or URL names, in order; those of a bucket are fetched into a folder. Raises SourceUnreadable."""
    if pattern.startswith(SCHEMES):
        folder.mkdir()
        try:
            return fetch(pattern, folder)
        except Invalid as error:
            raise SourceUnreadable(source.name, str(error), "check the URL, and what the environment says of the bucket") from error
    path = ws.home / pattern
    anchor = Path(path.anchor)
    found = [path] if path.is_file() else sorted(each for each in anchor.glob(str(path.relative_to(anchor))) if each.is_file())
    if not found:
        raise SourceUnreadable(source.name, f"there is no file {pattern}", f"expected a path or glob from {ws.home} on")
    return found


def _queried(ws: Workspace, source: SqlSource, others: Mapping[str, Taken]) -> tuple[pa.Table, tuple[str, ...]]:
    """Ask datasets, files and other sources."""
    import duckdb

    origins = []
    datasets = {dataset.name for dataset in list_datasets(ws)}
    try:
        with duckdb.connect(config={**ALONE, "file_search_path": str(ws.home)}) as connection:
            for name in _tables(source):
                if name in others and others[name].content is not None:
                    origins.append(name)
                    connection.register(name, _relation(connection, others[name].content))
                elif name.partition("@")[0] in datasets:
                    version = read_version(ws, name)
                    origins.append(f"{version.name}@{version.version}")
                    connection.register(name, _relation(connection, paths(ws, version)))
            table: pa.Table = connection.sql(source.query).to_arrow_table()
    except duckdb.Error as error:
        raise SourceUnreadable(source.name, f"DuckDB says: {_first_line(error)}", "expected a query over datasets and files") from error
    return table, tuple(origins)


def _relation(connection: Any, content: Any) -> Any:
    if isinstance(content, pa.Table):
        return content
    if all(path.suffix == ".parquet" for path in content) or not any(path.suffix in (".csv", ".tsv") for path in content):
        return connection.read_parquet([str(path) for path in content])
    return _read(content)


def _tables(source: SqlSource) -> tuple[str, ...]:
    """Return the tables that a query of DuckDB names. Raises SourceUnreadable."""
    import duckdb

    with duckdb.connect() as connection:
        told = connection.execute("SELECT json_serialize_sql(?)", [source.query]).fetchone()
    tree = decode_any((told or ("",))[0])
    if tree["error"]:
        raise SourceUnreadable(source.name, f"DuckDB says: {_first_line(tree['error_message'])}", "expected one SELECT")
    nodes = list(_nodes(tree))
    own = {each["key"] for node in nodes for each in node.get("cte_map", {}).get("map", ())}
    return tuple(dict.fromkeys(node["table_name"] for node in nodes if node.get("type") == "BASE_TABLE" and node["table_name"] not in own))


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield the parts of a query, as json_serialize_sql tells them."""
    if isinstance(tree, dict):
        yield tree
    for each in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _nodes(each)


def _fetched(source: SqlSource, database: str) -> pa.Table:
    """Ask a database."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import SQLAlchemyError

    url = with_variables(database)
    if url.startswith("postgresql://"):
        url = url.replace("postgresql", "postgresql+psycopg", 1)  # the driver that the catalog has, too
    try:
        engine = create_engine(url)
    except ModuleNotFoundError as error:
        raise Unavailable(
            f"source {source.name!r} wants the library {error.name} for {mask(database)}, which is not installed; install it with pip"
        ) from error
    except SQLAlchemyError as error:
        raise SourceUnreadable(
            source.name, f"{mask(database)} is not understood", "expected an SQLAlchemy URL, as in postgresql://USER:PASSWORD@HOST/NAME"
        ) from error
    try:
        with engine.connect().execution_options(stream_results=True) as connection:
            answer = connection.execute(text(source.query))
            names = list(answer.keys())
            parts = [_table(names, rows) for rows in answer.partitions(FETCH_ROWS)] or [_table(names, [])]
        table = pa.concat_tables(parts, promote_options="permissive")
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        raise SourceUnreadable(
            source.name, f"{mask(database)} says: {_first_line(cause)}", "expected a query that it can answer"
        ) from error
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise SourceUnreadable(source.name, f"a column holds values of several types: {error}", "cast it in the query") from error
    finally:
        engine.dispose()
    return table


def _table(names: Sequence[str], rows: Sequence[Any]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    return pa.table([pa.array(column) for column in columns], names=list(names))


def _in_utc(table: pa.Table) -> pa.Table:
    """Return a table whose moments are told in UTC, wherever the database stands that was asked."""
    kinds = [pa.timestamp(kind.unit, "UTC") if pa.types.is_timestamp(kind) and kind.tz else kind for kind in table.schema.types]
    return table.cast(pa.schema(list(zip(table.column_names, kinds, strict=True))))


def _typed(name: str, table: pa.Table, types: Mapping[str, str]) -> pa.Table:
    """Return a table with some columns as the types that are declared."""
    for column, kind in types.items():
        if column not in table.column_names:
            raise SourceUnreadable(name, f"there is no column {column!r}, whose type is declared", f"there are: {_listed(table)}")
        place = table.column_names.index(column)
        try:
            table = table.set_column(place, column, _cast(table.column(place), _arrow(kind)))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise SourceUnreadable(
                name, f"column {column!r} is not of type {kind}: {_first_line(error)}", "declare another type"
            ) from error
    return table


def _cast(column: Any, kind: Any) -> Any:
    """Return a column as a type; times without a zone are taken for times in that of the type."""
    zone = pa.types.is_timestamp(kind) and kind.tz
    if not zone:
        return column.cast(kind)
    if is_text(column.type):
        try:
            return column.cast(kind)
        except pa.ArrowInvalid:  # it names no zone, as Arrow would have it
            column = column.cast(pa.timestamp(kind.unit))
    if pa.types.is_timestamp(column.type) and column.type.tz is None:
        column = pc.assume_timezone(column.cast(pa.timestamp(kind.unit), safe=False), zone)
    return column.cast(kind, safe=False)


def _listed(table: pa.Table) -> str:
    return ", ".join(table.column_names)


def _columns(schema: pa.Schema) -> dict[str, str]:
    return {column.name: str(column.type) for column in schema}


def _first_line(error: object) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
