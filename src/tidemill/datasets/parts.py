"""The files of a table that grows by portions: many small ones at its end become one, so that they stay few. Knows no catalog."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.core.ids import Digest
from tidemill.store.objects import ObjectStore

FAN = 8
SIZES = (4 << 10, 32 << 10, 256 << 10, 2 << 20, 16 << 20)
"""Bytes below which a file is of each size; a larger one is never written again."""
BATCH_ROWS = 1 << 16
GROUP_ROWS = 1 << 17


def plan_gather(sizes: Sequence[int]) -> int:
    """Return how many of the last files are to become one, 0 for none: eight or more of one size or smaller ones. sizes: in bytes.

    None that is larger than those behind it together is written again for their sake. So files stay few, and a row is written anew about
    once for each size that its file grows through.
    """
    for limit in SIZES:
        count = rest = 0
        for place, size in enumerate(reversed(sizes), 1):
            if size >= limit:
                break
            if size <= rest or place == 1:
                count = place
            rest += size
        if count >= FAN:
            return count
    return 0


def gathered(objects: ObjectStore, parts: Sequence[Digest], *, folder: Path) -> list[Digest]:
    """Return the Parquet files of a table, in their order, with those that are to become one as one. folder: for what is under way."""
    found = list(parts)
    while count := plan_gather([objects.size(part) for part in found]):
        files = [objects.local_path(part) for part in found[-count:]]
        schema = pq.read_schema(files[0]).remove_metadata()
        if any(not pq.read_schema(file).remove_metadata().equals(schema) for file in files[1:]):
            break  # files that a user gave may differ in what readers make one of
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            path = Path(scratch) / "part.parquet"
            _write(path, schema, files)
            found[-count:] = [objects.put_file(path)]
    return found


def _write(path: Path, schema: pa.Schema, files: Sequence[Path]) -> None:
    with pq.ParquetWriter(path, schema, compression="zstd", compression_level=1) as writer:
        for table in _groups(schema, files):
            writer.write_table(table)


def _groups(schema: pa.Schema, files: Sequence[Path]) -> Iterator[pa.Table]:
    held: list[pa.RecordBatch] = []
    for file in files:
        with pq.ParquetFile(file) as opened:
            for batch in opened.iter_batches(BATCH_ROWS):
                held.append(batch)
                if sum(each.num_rows for each in held) >= GROUP_ROWS:
                    yield pa.Table.from_batches(held).replace_schema_metadata(None)
                    held = []
    if held:
        yield pa.Table.from_batches(held).replace_schema_metadata(None)
