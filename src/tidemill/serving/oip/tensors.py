"""Tensors as raw bytes, as the binary tensor extension and gRPC carry them: little-endian, row by row.

Texts (BYTES) each come after their length, an unsigned number of four bytes. FP16 and BF16 exist in this form only.
Source: github.com/triton-inference-server/server, docs/protocol/extension_binary_data.md.
"""

import struct
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidemill.core.errors import Invalid

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
        told = f"{list(shape[:DIMENSIONS])}{' and more' if len(shape) > DIMENSIONS else ''}"
        raise Invalid(f"tensor {name!r} has the shape {told}; expected at most {DIMENSIONS} numbers of 0 or more")
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
