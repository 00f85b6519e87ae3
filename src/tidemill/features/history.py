"""The point-in-time join: features as they could have been known at each row's moment, for training and for audits."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import timedelta
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sqlalchemy import Connection

from tidemill.catalog.lineage import link
from tidemill.compute.executor import open_executor
from tidemill.core.codec import encode
from tidemill.core.errors import Invalid, NotFound
from tidemill.core.ids import check_name
from tidemill.core.values import Value
from tidemill.core.window import Window
from tidemill.datasets.versions import DatasetVersion, add_parts, paths, read_version
from tidemill.features.definitions import ServiceVersion, read_service
from tidemill.features.partitions import Streamed, join_in_parts, needed, stream_files, stream_table
from tidemill.features.timeline import complete, join
from tidemill.features.views import Feature, FeatureView
from tidemill.govern.workspace import Workspace

SOURCES_KEY = b"tidemill.sources"
MEMORY_MB = 1024


class Retrieved(Value, frozen=True, kw_only=True):
    """Where features went, of how many rows, and what they were read from: the nodes of the dataset versions by source.

    dataset: the version that was made, None for a file.
    """

    service: str
    rows: int
    sources: dict[str, str]
    path: str | None = None
    dataset: str | None = None


def history(
    ws: Workspace,
    entities: pa.Table,
    service: str | ServiceVersion,
    *,
    timestamp: str = "event_timestamp",
    sources: Mapping[str, str] | None = None,
) -> pa.Table:
    """Return the same rows in the same order, with the features of a service (`NAME` or `NAME@V`) as of each row's timestamp.

    sources pins the dataset version of a source (`{"flights": "flights@3"}`); the newest one is read otherwise. The versions
    that were read stand in the schema's metadata. Raises Invalid for a missing join key or time, or a column already there.
    """
    asked = _Asked(ws, service, sources)
    events = {name: source.table(needed(asked.views, name, source)) for name, source in asked.events.items()}
    joined = join(entities, asked.views, events, timestamp=timestamp, wanted=asked.service.looked_up)
    wanted = asked.completed(joined).select([*entities.column_names, *asked.service.feature_names])
    return wanted.replace_schema_metadata({**(wanted.schema.metadata or {}), SOURCES_KEY: encode(asked.nodes)})


def history_to(
    ws: Workspace,
    entities: pa.Table | Sequence[Path] | str,
    service: str | ServiceVersion,
    to: Path | str,
    *,
    timestamp: str = "event_timestamp",
    sources: Mapping[str, str] | None = None,
    memory_mb: int = MEMORY_MB,
    executor: str = "inline",
    reason: str = "",
) -> Retrieved:
    """Write what `history` returns to a Parquet file, or as a version of a dataset, within about memory_mb of memory, however large it is.

    entities: a table, Parquet files, or a dataset (`NAME` or `NAME@V`). to: the file's path, or the name of a dataset. executor: where the
    parts of a large join run, as in `local:4` or `ray`; the answers are the same everywhere. Raises Invalid, NotFound; nothing is half
    written.
    """
    if memory_mb < 1:
        raise Invalid(f"memory_mb is {memory_mb}; expected at least 1")
    asked = _Asked(ws, service, sources)
    rows, read = _entity_rows(ws, entities)
    if isinstance(to, str):
        check_name(to, "dataset")
        ws.require("datasets.write", to)
    base = ws.state / "scratch" if isinstance(to, str) else to.parent
    base.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".history-", dir=base) as name, closing(open_executor(executor)) as workers:
        folder, made = Path(name), Path(name) / "features.parquet"
        (folder / "parts").mkdir()
        batches = join_in_parts(
            rows, asked.views, asked.events, timestamp=timestamp, wanted=asked.service.looked_up, memory_bytes=memory_mb << 20,
            folder=folder / "parts", executor=workers,
        )  # fmt: skip
        names = [*rows.schema.names, *asked.service.feature_names]
        count = _write(_completed(asked, batches), made, names, asked.nodes)
        if isinstance(to, Path):
            made.replace(to)
            return Retrieved(service=asked.service.reference, rows=count, sources=asked.nodes, path=str(to))
        origins = [*asked.nodes.values(), asked.service.node, *([read] if read is not None else [])]

        def tell(tx: Connection, version: DatasetVersion) -> None:
            for origin in origins:
                link(tx, ws.project, source=origin, target=version.node, relation="joined", at=ws.clock.now())

        version = add_parts(ws, to, [made], rows=count, reason=reason, beside=tell)
        reference = f"{version.name}@{version.version}"
        return Retrieved(service=asked.service.reference, rows=count, sources=asked.nodes, dataset=reference)


def entity_rows(
    ws: Workspace,
    service: str | ServiceVersion,
    window: Window,
    *,
    timestamp: str = "event_timestamp",
    every: timedelta | None = None,
    sources: Mapping[str, str] | None = None,
) -> pa.Table:
    """Return rows to ask `history` about where one has none: each entity of a service's sources at the moments of a window.

    At each moment at which something happened to it, each once; with `every`, at the window's start and then every so often, each entity
    that was heard of by the window's end. Ordered by moment, then by join keys. Raises Invalid for a service whose views have different
    join keys.
    """
    if every is not None and every <= timedelta(0):
        raise Invalid(f"every is {every}; expected longer than zero")
    asked = _Asked(ws, service, sources)
    keys = asked.views[0].entity
    if any(view.entity != keys for view in asked.views):
        told = "; ".join(f"{view.name}: {', '.join(view.entity)}" for view in asked.views)
        raise Invalid(f"the views of service {asked.service.name!r} have different join keys ({told}); bring rows with all of them")
    moment = pa.timestamp("us", tz="UTC")
    happened = []
    for view in asked.views:
        table = asked.events[view.source].table([*keys, view.event_timestamp])
        moments = table.column(view.event_timestamp).cast(moment, safe=False)
        kept = pc.less(moments, pa.scalar(window.end, moment))
        if every is None:
            kept = pc.and_(kept, pc.greater_equal(moments, pa.scalar(window.start, moment)))
        happened.append(table.select(keys).append_column(timestamp, moments).filter(kept).drop_null())
    known = pa.concat_tables(happened, promote_options="permissive")
    if every is None:
        known = known.group_by([*keys, timestamp]).aggregate([])
    else:
        entities = known.group_by(list(keys)).aggregate([])
        times = [window.start + number * every for number in range(-(-window.length // every))]
        known = pa.concat_tables(entities.append_column(timestamp, pa.array([time] * entities.num_rows, moment)) for time in times)
    return known.sort_by([(name, "ascending") for name in (timestamp, *keys)])


class _Asked:
    """A service, what its features are made of, and the versions that they are read from."""

    def __init__(self, ws: Workspace, service: str | ServiceVersion, sources: Mapping[str, str] | None) -> None:
        self.service = read_service(ws, service) if isinstance(service, str) else service
        self._on_demand = self.service.on_demand
        self.views: list[FeatureView] = [view.definition for view in self.service.views]
        read = dict.fromkeys(view.source for view in self.views)
        strange = sorted(set(sources or {}) - set(read))
        if strange:
            raise Invalid(f"feature service {self.service.name!r} does not read {', '.join(strange)} (it reads: {', '.join(sorted(read))})")
        self._versions = {name: read_version(ws, (sources or {}).get(name, name)) for name in read}
        self.events: dict[str, Streamed] = {name: stream_files(paths(ws, version)) for name, version in self._versions.items()}

    def completed(self, rows: pa.Table) -> pa.Table:
        """Return rows that features were joined to with those that are computed from them. Raises Invalid."""
        return complete(rows, self._on_demand)

    @property
    def nodes(self) -> dict[str, str]:
        """The dataset versions in lineage, by source."""
        return {name: version.node for name, version in self._versions.items()}


def _entity_rows(ws: Workspace, entities: pa.Table | Sequence[Path] | str) -> tuple[Streamed, str | None]:
    """Return the rows that ask, and the dataset version that they are."""
    if isinstance(entities, pa.Table):
        return stream_table(entities), None
    if isinstance(entities, str):
        version = read_version(ws, entities)
        return stream_files(paths(ws, version)), version.node
    missing = [path for path in entities if not path.is_file()]
    if missing or not entities:
        raise NotFound(f"there is no file {missing[0] if missing else '(none was named)'}; give Parquet files with the entity rows")
    try:
        return stream_files(entities), None
    except pa.ArrowInvalid as error:
        raise Invalid(f"the entity rows could not be read as Parquet: {error}") from error


def _completed(asked: _Asked, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        rows = asked.completed(pa.Table.from_batches([batch]))
        yield pa.RecordBatch.from_arrays([column.combine_chunks() for column in rows.columns], schema=rows.schema)


def _write(batches: Iterator[pa.RecordBatch], path: Path, names: Sequence[str], nodes: Mapping[str, str]) -> int:
    """Write some columns to a Parquet file; return how many rows there were."""
    first = next(batches)  # there is one, even of no rows
    schema = first.select(names).schema.with_metadata({SOURCES_KEY: encode(nodes)})
    count = 0
    with pq.ParquetWriter(path, schema, compression="zstd", compression_level=1) as writer:
        for batch in chain([first], batches):
            writer.write_batch(batch.select(names).replace_schema_metadata(schema.metadata))
            count += batch.num_rows
    return count


def feature_type(feature: Feature) -> pa.DataType:
    """Return the Arrow type of a feature's column."""
    return pa.float64() if feature.kind == "double" else pa.string()
