"""Step values as artifacts: Arrow tables, NumPy arrays, bytes and anything that JSON can say. Never pickle."""

import io
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.core.codec import canonical, decode
from tidemill.core.errors import Invalid
from tidemill.core.ids import Digest
from tidemill.core.values import Value
from tidemill.store.objects import ObjectStore

Kind = Literal["table", "array", "bytes", "json"]


class Saved(Value, frozen=True, kw_only=True):
    """A stored value: how it is written, and the object that holds it."""

    kind: Kind
    digest: Digest


def save(store: ObjectStore, value: Any, *, what: str) -> Saved:
    """Store a value by its type. Raises Invalid for one that has no safe form."""
    if isinstance(value, pa.Table):
        return Saved(kind="table", digest=put_table(store, value))
    if isinstance(value, np.ndarray) and value.dtype != object:
        buffer = io.BytesIO()
        np.save(buffer, value, allow_pickle=False)
        return Saved(kind="array", digest=store.put(buffer.getvalue()))
    if isinstance(value, bytes):
        return Saved(kind="bytes", digest=store.put(value))
    try:
        return Saved(kind="json", digest=store.put(canonical(value)))
    except (TypeError, ValueError) as error:
        raise Invalid(
            f"{what} is a {type(value).__name__}, which cannot be stored safely; return an Arrow table, a NumPy array, bytes, "
            "or values that JSON can say (numbers, text, lists, dicts, Tidemill values)"
        ) from error


def put_table(store: ObjectStore, table: pa.Table) -> Digest:
    """Store a table as one Parquet file; return its digest."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", compression_level=1)
    return store.put(sink.getvalue().to_pybytes())


def load(store: ObjectStore, saved: Saved, hint: Any = Any) -> Any:
    """Return a stored value; hint is the type that JSON is read as."""
    if saved.kind == "table":
        return pq.read_table(store.local_path(saved.digest))
    data = store.get(saved.digest)
    if saved.kind == "array":
        return np.load(io.BytesIO(data), allow_pickle=False)
    return data if saved.kind == "bytes" else decode(data, hint, what="a stored step value")
