"""From Arrow columns to what a runtime takes, and which rows a model's signature refuses. Pure; faults are named one by one."""

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemill.core.errors import Invalid
from tidemill.core.signature import Column as Declared
from tidemill.core.signature import ModelSpec
from tidemill.serving.block import Block, BlockCheck
from tidemill.serving.runtimes.runtime import Column, Columns

if TYPE_CHECKING:
    ArrowArray = pa.Array[Any]

Faults = dict[int, str]


class ColumnsRefused(Invalid):
    """The table's columns are not what the model takes, whatever its rows hold."""

    def __init__(self, what: str, model: str, faults: Sequence[str]) -> None:
        self.what, self.model, self.faults = what, model, tuple(faults)
        super().__init__(f"{what} cannot be scored by model {model}: {'; '.join(faults)}; choose or cast the columns with --sql")


class ModelColumns:
    """What a model takes of a table: checks it, and hands it over without a Python object a value where all are numbers."""

    def __init__(self, spec: ModelSpec, *, looked_up: Sequence[str] = ()) -> None:
        """looked_up: features, which are what they are: nobody is told to mend them."""
        fed = {
            name for names in (*spec.tensors.values(), *(names for step in spec.steps for names in step.tensors.values())) for name in names
        }
        self.inputs = tuple(
            Declared(name=column.name, kind=column.kind, required=False) if column.name in looked_up else column
            for column in spec.signature.inputs
            if column.name in fed
        )
        kinds = {column.name: column.kind for column in self.inputs}
        only = next(iter(spec.tensors.values())) if len(spec.tensors) == 1 and not spec.steps else ()
        self._matrix = only if only and all(kinds[name] == "double" for name in only) else ()
        by_name = {column.name: column for column in self.inputs}
        ordered = [by_name[name] for name in self._matrix]
        self._check = BlockCheck(
            np.array([-inf if column.low is None else column.low for column in ordered]),
            np.array([inf if column.high is None else column.high for column in ordered]),
            np.array([not column.required for column in ordered]),
        )

    def refused(self, schema: pa.Schema) -> list[str]:
        """Return what is wrong with the columns of a table, [] when nothing is."""
        faults = []
        for column in self.inputs:
            if column.name not in schema.names:
                if column.required:
                    faults.append(f"column {column.name!r} is missing")
            elif schema.names.count(column.name) > 1:
                faults.append(f"column {column.name!r} stands twice")
            elif not _fits(column, schema.field(column.name).type):
                faults.append(f"column {column.name!r} is of type {schema.field(column.name).type}; the model takes a {column.kind}")
        return faults

    def take(self, batch: pa.RecordBatch) -> tuple[Columns, Faults]:
        """Return the columns of the rows that are well, and what is wrong with each other row, by its place in the batch.

        batch: with the columns that `refused` finds nothing wrong with; an optional one may be absent.
        """
        if self._matrix:
            block = Block(self._matrix, self._filled(batch))
            with np.errstate(all="ignore"):  # sums of large numbers may overflow
                if self._check.holds(block.matrix):
                    return block, {}
        faults = self._faults(batch)
        if faults:
            well = np.ones(batch.num_rows, dtype=bool)
            well[list(faults)] = False
            batch = batch.filter(pa.array(well))
        if self._matrix:
            return Block(self._matrix, self._filled(batch)), faults
        return {column.name: _values(column, _of(batch, column.name)) for column in self.inputs}, faults

    def _filled(self, batch: pa.RecordBatch) -> NDArray[np.float32] | NDArray[np.float64]:
        """Return the numbers row by row: float32 when all are, else float64."""
        kinds = {batch.schema.field(name).type if name in batch.schema.names else None for name in self._matrix}
        if kinds in ({pa.float32()}, {pa.float64()}):  # most tables: Arrow does it in a third of the time
            whole: NDArray[np.float32] = batch.select(list(self._matrix)).to_tensor(null_to_nan=True, row_major=True).to_numpy()
            return whole
        columns = [_of(batch, name) for name in self._matrix]
        single = all(column.type in (pa.float32(), pa.float16()) for column in columns)
        matrix = np.empty((batch.num_rows, len(columns)), dtype=np.float32 if single else np.float64)
        for place, column in enumerate(columns):
            matrix[:, place] = _floats(column, single=single)
        return matrix

    def _faults(self, batch: pa.RecordBatch) -> Faults:
        found: Faults = {}
        for column in self.inputs:
            values = _of(batch, column.name)
            for place, fault in _column_faults(column, values):
                found.setdefault(place, f"column {column.name!r} {fault}")
        return dict(sorted(found.items()))


def _of(batch: pa.RecordBatch, name: str) -> "ArrowArray":
    """Return a column, nothing but nulls for one that is absent."""
    if name not in batch.schema.names:
        return pa.nulls(batch.num_rows, pa.float64())
    column = batch.column(name)
    if pa.types.is_dictionary(column.type):
        return column.cast(column.type.value_type)
    return column.cast(pa.float64()) if pa.types.is_null(column.type) else column


def _fits(column: Declared, kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_null(kind):
        return True
    if column.kind == "string":
        return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if column.kind == "boolean":
        return pa.types.is_boolean(kind)
    return pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)


def _column_faults(column: Declared, values: "ArrowArray") -> list[tuple[int, str]]:
    """Return what is wrong with values of one column, by their place."""
    if column.kind in ("string", "boolean") or pa.types.is_boolean(values.type):
        absent = values.is_null().to_numpy(zero_copy_only=False)
        found = [(int(place), "is missing") for place in np.flatnonzero(absent)] if column.required else []
        if column.categories and not absent.all():
            strange = ~pc.is_in(values, value_set=pa.array(column.categories, values.type)).to_numpy(zero_copy_only=False) & ~absent
            known = ", ".join(column.categories[:20])
            found += [(int(place), f"is {values[int(place)].as_py()!r}; expected one of {known}") for place in np.flatnonzero(strange)]
        return found
    numbers = _floats(values, single=False)
    absent = np.isnan(numbers)
    found = [(int(place), "is missing") for place in np.flatnonzero(absent)] if column.required else []
    bad = np.isinf(numbers)
    found += [(int(place), f"is {numbers[place]}; expected a finite number") for place in np.flatnonzero(bad)]
    if column.kind == "long":
        broken = ~absent & ~bad & (numbers != np.floor(numbers))
        found += [(int(place), f"is {numbers[place]:g}; expected a whole number") for place in np.flatnonzero(broken)]
    low, high = -inf if column.low is None else column.low, inf if column.high is None else column.high
    outside = ~bad & ((numbers < low) | (numbers > high))
    found += [(int(place), f"is {numbers[place]:g}; expected {low:g} to {high:g}") for place in np.flatnonzero(outside)]
    return found


def _floats(values: "ArrowArray", *, single: bool) -> NDArray[np.float32] | NDArray[np.float64]:
    """Return numbers, NaN where there is none. Whole numbers beyond 2**53 lose their last digits, as in every model of doubles."""
    wanted = pa.float32() if single else pa.float64()
    if values.type != wanted:
        values = pc.cast(values, wanted, safe=False)
    numbers: NDArray[np.float32] | NDArray[np.float64] = values.to_numpy(zero_copy_only=False)
    return numbers


def _values(column: Declared, values: "ArrowArray") -> Column:
    """Return a column as a runtime takes it: numbers as an array where none is missing, text as a list."""
    if column.kind == "double":
        return _floats(values, single=False)
    if column.kind == "long":
        whole = pc.cast(values, pa.int64(), safe=False) if values.type != pa.int64() else values
        whole = whole if not pa.types.is_floating(values.type) else pc.if_else(pc.is_nan(values), pa.scalar(None, pa.int64()), whole)
        return whole.to_numpy() if not whole.null_count else whole.to_pylist()
    if column.kind == "boolean" and pa.types.is_boolean(values.type) and not values.null_count:
        return values.to_numpy(zero_copy_only=False)
    return values.to_pylist()
