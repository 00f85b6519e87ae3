"""What models answer beside the score: named arrays, [n] or [n, k], of numbers or text. How they are kept, parted and put together."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidemill.core.signature import ModelSpec, Output, OutputKind
from tidemill.core.values import Value

Array = NDArray[Any]
Others = Mapping[str, Array]
"""By name, each of as many rows as there are scores."""
NONE: Others = {}
DTYPES: Mapping[OutputKind, np.dtype[Any]] = {
    "double": np.dtype("<f8"), "float": np.dtype("<f4"), "long": np.dtype("<i8"), "boolean": np.dtype("?"), "string": np.dtype(object),
}  # fmt: skip


class PackedArray(Value, frozen=True, kw_only=True):
    """Numbers row by row: little-endian float64, float32, int64 (`<f8`, `<f4`, `<i8`), or a byte a boolean (`|b1`).

    width: how many a row has, None of an array [n].
    """

    dtype: str
    width: int | None
    data: bytes


Packed = PackedArray | list[Any]
"""Text is packed as a list: of texts, or of lists of them."""


def pack_array(array: Array) -> Packed:
    """Return an array as it is sent and journaled: it says by itself what it is."""
    if array.dtype == object:
        texts: list[Any] = array.tolist()
        return texts
    return PackedArray(dtype=array.dtype.str, width=array.shape[1] if array.ndim == 2 else None, data=array.tobytes())


def unpack_array(packed: Packed) -> Array:
    """Return a packed array."""
    if isinstance(packed, list):
        return np.array(packed, dtype=object)
    flat = np.frombuffer(packed.data, packed.dtype)
    return flat if packed.width is None else flat.reshape(-1, packed.width)


def pack_others(others: Others) -> dict[str, Packed] | None:
    """Return arrays as they are journaled, None when there are none."""
    return {name: pack_array(array) for name, array in others.items()} if others else None


def shared(main: ModelSpec, specs: Sequence[ModelSpec]) -> tuple[Output, ...]:
    """Return what all models answer alike beside the score, in the order of the main one."""
    known = [{(output.name, output.kind, output.width) for output in spec.others} for spec in specs]
    return tuple(output for output in main.others if all((output.name, output.kind, output.width) in each for each in known))


def part(others: Others, start: int, stop: int) -> Others:
    """Return some rows that follow each other."""
    return {name: array[start:stop] for name, array in others.items()} if others else others


def put_together(parts: Sequence[tuple[list[int] | NDArray[np.intp], Others]], rows: int) -> Others:
    """Return arrays of rows of which each part has some: their places, and what was said of them. Nothing is 0."""
    whole: dict[str, Array] = {}
    for places, others in parts:
        for name, array in others.items():
            if name not in whole:
                whole[name] = np.zeros((rows, *array.shape[1:]), dtype=array.dtype)
            whole[name][places] = array
    return whole


def by_row(others: Others, rows: int) -> Sequence[dict[str, Any] | None]:
    """Return what was said of each row, by name; None of each where nothing was."""
    if not others:
        return [None] * rows
    return [dict(zip(others, values, strict=True)) for values in zip(*(array.tolist() for array in others.values()), strict=True)]


def array_of(values: Sequence[Any], output: Output) -> Array:
    """Return values, one a row, as the array of an output."""
    return np.array(values, dtype=DTYPES[output.kind])
