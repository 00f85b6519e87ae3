"""Tensors: as raw bytes, as the binary tensor extension and gRPC carry them, and as rows.

Raw bytes are little-endian, row by row. Texts (BYTES) each come after their length, an unsigned number of four bytes. FP16 and BF16
exist in this form only.
Source: github.com/triton-inference-server/server, docs/protocol/extension_binary_data.md.
"""

import struct
from collections.abc import Sequence
from datetime import datetime
from math import isnan, prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemill.core.errors import Invalid
from tidemill.serving.block import Block
from tidemill.serving.predict import Endpoint
from tidemill.serving.rows import Rows, RowSchema

DIMENSIONS = 8
_LENGTH = struct.Struct("<I")
_KINDS: dict[str, np.dtype[Any]] = {
    "BF16": np.dtype("<u2"), "BOOL": np.dtype("<u1"), "FP16": np.dtype("<f2"), "FP32": np.dtype("<f4"), "FP64": np.dtype("<f8"),
    "INT8": np.dtype("<i1"), "INT16": np.dtype("<i2"), "INT32": np.dtype("<i4"), "INT64": np.dtype("<i8"),
    "UINT8": np.dtype("<u1"), "UINT16": np.dtype("<u2"), "UINT32": np.dtype("<u4"), "UINT64": np.dtype("<u8"),
}  # fmt: skip
DATATYPES = (*_KINDS, "BYTES")


def read_raw(name: str, datatype: str, shape: Sequence[int], data: bytes | memoryview) -> NDArray[Any] | list[str]:
    """Return the values of a tensor, flat: an array of its datatype (BF16 as float32), a list of texts for BYTES.

    Raises Invalid, naming the tensor, when datatype, shape and data do not agree.
    """
    if len(shape) > DIMENSIONS or min(shape, default=0) < 0:
        raise Invalid(f"tensor {name!r} has the shape {_shown(shape)}; expected at most {DIMENSIONS} numbers of 0 or more")
    count = prod(shape)
    if datatype == "BYTES":
        return _read_texts(name, count, data)
    kind = _KINDS.get(datatype)
    if kind is None:
        raise Invalid(f"tensor {name!r} has the datatype {datatype!r}; expected one of {', '.join(DATATYPES)}")
    if len(data) != count * kind.itemsize:
        raise Invalid(f"tensor {name!r} has {len(data)} bytes of data; its shape {list(shape)} of {datatype} says {count * kind.itemsize}")
    values = np.frombuffer(data, kind)
    if datatype == "BOOL":
        if values.size and values.max() > 1:
            raise Invalid(f"tensor {name!r} holds the byte {values.max()}; expected 0 or 1 for each BOOL")
        return values.view(np.bool_)
    # A BF16 is the upper half of a single precision number.
    return (values.astype("<u4") << 16).view("<f4") if datatype == "BF16" else values


def write_raw(datatype: str, values: Sequence[Any] | NDArray[Any]) -> bytes:
    """Return the bytes of a tensor; BF16 is rounded to the nearest, ties to even."""
    if datatype == "BYTES":
        texts = [str(value).encode() for value in values]
        return b"".join(part for text in texts for part in (_LENGTH.pack(len(text)), text))
    if datatype == "BF16":
        return _halved(np.asarray(values, "<f4")).tobytes()
    if datatype == "BOOL":
        return np.asarray(values, np.bool_).tobytes()
    return np.asarray(values, _KINDS[datatype]).tobytes()


def _halved(values: NDArray[Any]) -> NDArray[Any]:
    bits = values.view("<u4").astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    # To round the digits of a NaN up would make a number of it.
    return np.where(np.isnan(values), (bits >> 16) | 0x40, rounded).astype("<u2")


def _read_texts(name: str, count: int, data: bytes | memoryview) -> list[str]:
    found: list[str] = []
    place, size = 0, len(data)
    while place < size and len(found) < count:
        if size - place < _LENGTH.size:
            raise Invalid(f"tensor {name!r} ends within the length of value {len(found)}; expected four bytes of it")
        (length,) = _LENGTH.unpack_from(data, place)
        start = place + _LENGTH.size
        place = start + length
        if place > size:
            raise Invalid(f"tensor {name!r} says that value {len(found)} has {length} bytes; {size - start} follow")
        try:
            found.append(str(data[start:place], "utf-8"))
        except UnicodeDecodeError:
            raise Invalid(f"tensor {name!r} has a value {len(found)} that is not UTF-8; expected text") from None
    if place < size or len(found) < count:
        more = f"{size - place} bytes more" if place < size else f"{len(found)}"
        raise Invalid(f"tensor {name!r} holds {more}; its shape says {count} values")
    return found


class Tensor(NamedTuple):
    """A tensor of a request: the columns that it fills, in order, and its values, flat, row by row."""

    name: str
    columns: tuple[str, ...]
    rows: int
    values: NDArray[Any] | list[Any]


def columns_of(endpoint: Endpoint, tensor: str) -> tuple[str, ...]:
    """Return the columns that a tensor fills: itself, or those of a tensor of the model file."""
    return (tensor,) if tensor in endpoint.schema.types else endpoint.main.spec.tensors.get(tensor, (tensor,))


def rows_of(name: str, shape: Sequence[int], width: int) -> int:
    """Return how many rows a tensor over so many columns has. Raises Invalid."""
    fits = (len(shape) == 2 and shape[1] == width) or (width == 1 and len(shape) == 1)
    if not fits or shape[0] < 0:
        wanted = "[n] or [n, 1]" if width == 1 else f"[n, {width}]"
        raise Invalid(f"tensor {name!r} has the shape {_shown(shape)}; expected {wanted}")
    return shape[0]


def take(schema: RowSchema, tensors: Sequence[Tensor], *, ids: list[str] | None, at: datetime | None) -> Rows:
    """Check what tensors hold as rows: numbers as one block, if that is all there is. Raises Invalid, RowsRefused."""
    if not tensors:
        raise Invalid("inference request has no inputs; expected one tensor a column")
    count = tensors[0].rows
    for tensor in tensors:
        if tensor.rows != count:
            raise Invalid(f"tensor {tensor.name!r} has {tensor.rows} rows, the others {count}; expected as many in each")
    names = tensors[0].columns if len(tensors) == 1 else tuple(name for tensor in tensors for name in tensor.columns)
    if len(tensors) > 1 and len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise Invalid(f"column {twice!r} comes twice")
    if schema.takes_block(names):
        parts = [part for tensor in tensors if (part := _matrix(tensor)) is not None]
        if len(parts) == len(tensors):
            return schema.take_block(Block(names, parts[0] if len(parts) == 1 else np.column_stack(parts)), ids=ids, at=at)
    columns: dict[str, list[Any]] = {}
    for tensor in tensors:
        values = _listed(tensor.values)
        columns.update({name: values[place :: len(tensor.columns)] for place, name in enumerate(tensor.columns)})
    return schema.take(columns, count, ids=ids, at=at)


def _matrix(tensor: Tensor) -> NDArray[Any] | None:
    """Return the numbers of a tensor as a block has them, None when they are not numbers that a block holds exactly."""
    values = tensor.values
    if not isinstance(values, np.ndarray) or values.dtype.kind == "b":
        return None
    if values.dtype.kind != "f":
        if values.dtype.itemsize == 8:
            return None
        values = values.astype(np.float64)
    elif values.dtype.itemsize == 2:
        values = values.astype(np.float32)
    return values.reshape(tensor.rows, len(tensor.columns))


def _listed(values: NDArray[Any] | list[Any]) -> list[Any]:
    """Return values as Python's own; NaN, which means missing, as None."""
    if not isinstance(values, np.ndarray):
        return values
    listed: list[Any] = values.tolist()
    if values.dtype.kind == "f" and np.isnan(values).any():
        return [None if isnan(value) else value for value in listed]
    return listed


def _shown(shape: Sequence[int]) -> str:
    return f"{list(shape[:DIMENSIONS])}{' and more' if len(shape) > DIMENSIONS else ''}"
