"""Rows of a request: decoded and checked against what the models behind an endpoint take, in one pass; faults are named one by one."""

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from math import inf, isfinite, isnan
from operator import attrgetter
from types import new_class
from typing import Annotated, Any, Literal

import numpy as np

from tidemill.client.problems import Fault
from tidemill.core.codec import convert, decode, decode_any
from tidemill.core.errors import Invalid
from tidemill.core.ids import new_ids
from tidemill.core.signature import Column, ModelSpec
from tidemill.core.values import Meta, Passed, Value
from tidemill.features.online import ReadPlan
from tidemill.serving.block import Block, BlockCheck

FAULTS_TOLD = 20
ORDERS_KEPT = 200  # callers choose names and their order; whoever sends ever new ones is not to fill the memory
PredictionId = Annotated[str, Meta(min_length=1, max_length=200)]
_LONG = Meta(ge=-(2**63), le=2**63 - 1)
_UNSPEAKABLE = re.compile(r'["\\\x00-\x1f]')
_ANY_KIND = str | Annotated[int, _LONG] | float | bool | None


class RowsRefused(Invalid):
    """The request's rows do not fit what the models behind the endpoint take."""

    def __init__(self, endpoint: str, faults: Sequence[Fault], *, total: int) -> None:
        self.endpoint, self.faults, self.total = endpoint, tuple(faults), total
        told = "; ".join(f"row {fault.row}: {fault.fault}" for fault in faults[:3])
        more = f" (and {total - 3} more)" if total > 3 else ""
        super().__init__(f"endpoint {endpoint!r} cannot take these rows: {told}{more}")


class Rows(Passed):
    """Decoded rows: columns by name, ids if the caller gave them, and the moment that they are about.

    score_only: nothing is wanted of what a model answers beside the score.
    """

    columns: Mapping[str, Any]
    count: int
    ids: list[str] | None
    at: datetime | None
    score_only: bool = False


def together(asked: Sequence[Rows]) -> Rows:
    """Return the rows of several requests, which `kind_of` says go together, as those of one."""
    columns: Mapping[str, Any]
    first = asked[0].columns
    if type(first) is Block:
        columns = Block(first.names, np.concatenate([rows.columns.matrix for rows in asked]))  # type: ignore[attr-defined]  # blocks all
    else:
        columns = {name: [value for rows in asked for value in rows.columns[name]] for name in first}
    ids = None
    if any(rows.ids for rows in asked):
        ids = [unit for rows in asked for unit in rows.ids or new_ids(rows.count)]
    return Rows(columns, sum(rows.count for rows in asked), ids, asked[0].at, asked[0].score_only)


def kind_of(rows: Rows) -> Hashable:
    """Return what rows of two requests have to have in common to go together: the moment, what is wanted of them, and their form."""
    columns = rows.columns
    if type(columns) is Block:
        return columns.names, columns.matrix.dtype, rows.at, rows.score_only
    return rows.at, rows.score_only


class RowSchema:
    """What one row of an endpoint's requests looks like, compiled to a struct, so that decoding is checking."""

    def __init__(
        self, endpoint: str, types: Mapping[str, Any], required: Iterable[str], columns: Sequence[Column] = (), *, keys: Iterable[str] = ()
    ) -> None:  # fmt: skip
        """columns: those of types that models declare; the numbers among them may come as a block. keys: whole numbers among the rest."""
        self.endpoint, self.types, self.required = endpoint, dict(types), frozenset(required)
        self._numbers = {
            column.name: (-inf if column.low is None else column.low, inf if column.high is None else column.high)
            for column in columns
            if column.kind == "double"
        }
        self.wholes = frozenset(column.name for column in columns if column.kind == "long") | frozenset(keys)
        self._checks: dict[tuple[str, ...], BlockCheck] = {}
        fields = {f"c{place}": name for place, name in enumerate(self.types)}
        annotations = {field: self.types[name] for field, name in fields.items()}
        defaults = {field: None for field, name in fields.items() if name not in self.required}
        row = new_class(
            "Row", (Value,), {"frozen": True, "kw_only": True, "rename": fields},
            lambda namespace: namespace.update({"__module__": __name__, "__annotations__": annotations, **defaults}),
        )  # fmt: skip
        request = {"rows": list[row], "ids": list[PredictionId] | None, "at": datetime | None}  # type: ignore[valid-type]  # made above
        self.request = new_class(
            "PredictRequest", (Value,), {"frozen": True, "kw_only": True},
            lambda namespace: namespace.update({"__module__": __name__, "__annotations__": request, "ids": None, "at": None}),
        )  # fmt: skip
        self._lists: dict[str, Any] = {name: list[kind] for name, kind in self.types.items()}  # type: ignore[valid-type]  # likewise
        self._getters = {name: attrgetter(field) for field, name in fields.items()}

    def decode(self, body: bytes) -> Rows:
        """Read a request. Raises Invalid when it is none, RowsRefused naming rows and columns."""
        try:
            request: Any = decode(body, self.request, what="request")
        except Invalid:
            self._explain(body)
            raise
        rows = request.rows
        return self._checked(
            Rows({name: list(map(getter, rows)) for name, getter in self._getters.items()}, len(rows), request.ids, request.at)
        )

    def takes_block(self, names: tuple[str, ...]) -> bool:
        """Return whether these are all the columns of a row, and numbers all of them."""
        if names in self._checks:
            return True
        if len(names) != len(self.types) or not self.types.keys() == set(names) <= self._numbers.keys():
            return False
        if len(self._checks) >= ORDERS_KEPT:
            self._checks.clear()
        self._checks[names] = self._check_of(names)
        return True

    def take_block(self, block: Block, *, ids: list[str] | None, at: datetime | None) -> Rows:
        """Check rows that came as a block that `takes_block`. Raises RowsRefused."""
        if not self._checks[block.names].holds(block.matrix):
            self._refuse([dict(zip(block.names, map(_told, row), strict=True)) for row in block.matrix.tolist()])
        return self._checked(Rows(block, len(block.matrix), ids, at))

    def _check_of(self, names: tuple[str, ...]) -> BlockCheck:
        low, high = (np.array([self._numbers[name][side] for name in names]) for side in (0, 1))
        return BlockCheck(low, high, np.array([name not in self.required for name in names]))

    def take(self, columns: Mapping[str, list[Any]], count: int, *, ids: list[str] | None, at: datetime | None) -> Rows:
        """Check rows that came as columns (other protocols), where 3.0 is a whole number, too. Raises RowsRefused."""
        columns = {name: list(map(whole, values)) if name in self.wholes else values for name, values in columns.items()}
        taken: dict[str, list[Any]] = {}
        if self.required <= columns.keys() <= self.types.keys():
            with suppress(Invalid):
                taken = {name: self._converted(name, values) for name, values in columns.items()}
        if not taken:
            self._refuse([{name: values[place] for name, values in columns.items()} for place in range(count)])
        absent = [None] * count
        return self._checked(Rows({name: taken.get(name, absent) for name in self.types}, count, ids, at))

    def _converted(self, name: str, values: list[Any]) -> list[Any]:
        """Return a column as `decode` would: 3 among floats becomes 3.0. Raises Invalid."""
        found: list[Any] = convert(values, self._lists[name])
        if name in self._numbers and not all(value is None or isfinite(value) for value in found):
            raise Invalid(f"column {name!r} holds what is not finite")
        return found

    def _checked(self, rows: Rows) -> Rows:
        if rows.count == 0:
            raise Invalid("request has no rows; expected at least one")
        if rows.ids is not None:
            if len(rows.ids) != rows.count:
                raise Invalid(f"request has {rows.count} rows and {len(rows.ids)} ids; expected one id a row, or none at all")
            if len(set(rows.ids)) != rows.count:
                raise Invalid("request has one id twice; expected distinct ids")
        if rows.at is not None and rows.at.tzinfo is None:
            raise Invalid(f"request's time {rows.at.isoformat()} has no time zone; write it as {rows.at.isoformat()}Z")
        return rows

    def _explain(self, body: bytes) -> None:
        """Raise RowsRefused if the faults lie in rows."""
        try:
            request = decode_any(body)
        except Invalid:
            return
        rows = request.get("rows") if isinstance(request, dict) else None
        if isinstance(rows, list):
            self._refuse(rows)

    def _refuse(self, rows: list[Any]) -> None:
        faults: list[Fault] = []
        total = 0
        for place, row in enumerate(rows):
            for column, fault in self._faults(row):
                total += 1
                if len(faults) < FAULTS_TOLD:
                    faults.append(Fault(row=place, column=column, fault=fault))
        if faults:
            raise RowsRefused(self.endpoint, faults, total=total)

    def _faults(self, row: Any) -> list[tuple[str | None, str]]:
        if not isinstance(row, dict):
            return [(None, f"is {type(row).__name__}; expected an object of column names and values")]
        known = ", ".join(self.types)
        missing = [(name, f"column {name!r} is missing") for name in self.required - row.keys()]
        strange = [str(name)[:200] for name in row.keys() - self.types.keys()]
        found: list[tuple[str | None, str]] = [
            *missing,
            *((name, f"column {name!r} is not known (known are: {known})") for name in strange),
        ]
        for name, value in row.items():
            if name in self.types:
                try:
                    convert(value, self.types[name])
                except Invalid as error:
                    found.append((name, f"column {name!r}: {str(error).removeprefix('input was not understood: ')}"))
                else:
                    if isinstance(value, float) and not isfinite(value):
                        found.append((name, f"column {name!r}: expected a finite number, got {value}"))
        return sorted(found, key=lambda fault: str(fault[0]))


def row_schema(
    endpoint: str, specs: Sequence[ModelSpec], shadows: Sequence[ModelSpec], plan: ReadPlan | None, sticky_by: str | None,
    label_key: str | None = None,
) -> RowSchema:  # fmt: skip
    """Return what a row must bring so that every routed model can answer it; what only shadows need, and a label key, may be left out.

    Raises Invalid when models disagree on a column's type, need one that nobody brings, or name one that JSON cannot name plainly.
    """
    looked_up = set(plan.features) if plan is not None else set()
    types: dict[str, Any] = {}
    required: set[str] = set()
    keys: set[str] = set()
    for spec in (*specs, *shadows):
        routed = spec in specs
        inputs = {column.name: column for column in spec.signature.inputs}
        brought = spec.request_columns or tuple(name for name in inputs if name not in looked_up)
        fed = {name for names in spec.tensors.values() for name in names}
        if lacking := sorted(fed - set(brought) - looked_up):
            raise Invalid(f"endpoint {endpoint!r}: a model takes {', '.join(lacking)}, which neither the request nor its features bring")
        for name in brought:
            column = inputs.get(name)
            if column is None:
                continue  # a join key, below
            kind = column_type(column, optional=not (routed and column.required))
            if name in types and types[name] != kind and column_type(column, optional=True) != types[name] | None:
                raise Invalid(f"endpoint {endpoint!r}: its models disagree on the type of column {name!r}")
            if routed and column.required:
                required.add(name)
                types[name] = kind
            else:
                types.setdefault(name, kind)
        for name in brought:
            if name not in types:
                types[name] = _ANY_KIND
                required.update({name} if routed else ())
    if plan is not None:
        _take_plan(plan, types, required, keys)
    if sticky_by is not None and sticky_by not in types:
        types[sticky_by] = _ANY_KIND
        required.add(sticky_by)
    if label_key is not None:
        types.setdefault(label_key, _ANY_KIND)
    _check_speakable(endpoint, types)
    columns = {column.name: column for spec in (*specs, *shadows) for column in spec.signature.inputs}
    # Who sticks is told by what was sent, digit by digit: that column stays as it came.
    return RowSchema(
        endpoint, types, required, [column for name, column in columns.items() if name in types and name != sticky_by], keys=keys
    )


def _check_speakable(endpoint: str, names: Iterable[str]) -> None:
    if unspeakable := sorted(name for name in names if _UNSPEAKABLE.search(name)):
        raise Invalid(
            f"endpoint {endpoint!r}: column {unspeakable[0]!r} has a quote, a backslash or a control character in its name; rename it"
        )


def _take_plan(plan: ReadPlan, types: dict[str, Any], required: set[str], keys: set[str]) -> None:
    """Add what looking features up needs of a row: join keys, and what features are computed from."""
    for view in plan.views:
        for name, key in zip(view.view.entity, view.key_kinds, strict=True):
            if types.get(name, _ANY_KIND) == _ANY_KIND:
                types[name] = (str if key == "string" else Annotated[int, _LONG]) | None  # None is nobody: nothing is looked up
                keys.update({name} if key == "long" else ())
            required.add(name)
    for each in plan.on_demand:
        for name, told in each.request.items():
            types.setdefault(name, (str if told == "string" else float) | None)
            required.add(name)


def column_type(column: Column, *, optional: bool) -> Any:
    """Return the type that checks a column's values, its range and categories included."""
    kind: Any
    if column.kind == "string":
        kind = Literal[column.categories] if column.categories else str
    elif column.kind == "boolean":
        kind = bool
    else:
        low, high = column.low, column.high
        if column.kind == "long":
            kind = Annotated[int, Meta(ge=_LONG.ge if low is None else int(low), le=_LONG.le if high is None else int(high))]
        else:
            kind = Annotated[float, Meta(ge=low, le=high)] if low is not None or high is not None else float
    return kind | None if optional else kind


def whole(value: Any) -> Any:
    """Return 3 for 3.0: callers who keep their numbers in one array send whole ones so. All else stays as it is."""
    return int(value) if type(value) is float and value.is_integer() else value


def _told(value: float) -> float | None:
    """Return a number of a block as a caller would write it."""
    return None if isnan(value) else value
