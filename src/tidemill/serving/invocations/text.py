"""Rows as text: CSV with or without a header, and JSON Lines.

An empty cell is missing; so is, outside of text columns, what pandas reads as NaN.
"""

import csv
import io
import re
from collections.abc import Sequence
from math import isfinite
from typing import Any

from tidemill.core.codec import Raw, encode, encode_text
from tidemill.core.errors import Invalid
from tidemill.core.signature import ColumnKind
from tidemill.serving.frames import leading_columns, read_instances, read_json, take_numbers
from tidemill.serving.parameters import Parameters
from tidemill.serving.predict import Endpoint
from tidemill.serving.rows import Rows

# Source: pandas, `read_csv`, na_values.
_MISSING = frozenset(
    {
        "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN",
        "None", "n/a", "nan", "null",
    }
)  # fmt: skip
_WHOLE = re.compile(r" *[+-]?[0-9]+ *")
_TRUTHS = {"true": True, "false": False, "1": True, "0": False}


def read_csv(endpoint: Endpoint, body: bytes, *, header: bool | None) -> Rows:
    """Read CSV (RFC 4180). header None: the first line is one if a cell of it is the name of a column. Raises Invalid, RowsRefused.

    Without a header the cells fill the columns in their order. A first column without a name is a frame's index, and is left out.
    """
    lines = _lines(body)
    if not lines:
        raise Invalid("the CSV has no rows; expected one line a row, with the names of the columns in the first line or without them")
    names = lines[0]
    width = len(names)
    if header or (header is None and not endpoint.schema.types.keys().isdisjoint(names)):
        del lines[0]
    else:
        names = leading_columns(endpoint, width)
    for place, cells in enumerate(lines):
        if len(cells) != width:
            raise Invalid(f"row {place} of the CSV has {len(cells)} cells; expected {width}, as many as the first line has")
    if names[0] == "":
        names, lines = names[1:], [cells[1:] for cells in lines]
    if len(set(names)) != len(names):
        raise Invalid(f"the CSV names column {next(name for name in names if names.count(name) > 1)[:200]!r} twice")
    kinds = _kinds(endpoint)
    if all(kinds.get(name) == "double" for name in names):
        rows = _numbers(endpoint, lines, names)
        if rows is not None:
            return rows
    columns = {name: [_value(cells[place], kinds.get(name, "string")) for cells in lines] for place, name in enumerate(names)}
    return endpoint.schema.take(columns, len(lines), ids=None, at=None)


def read_lines(endpoint: Endpoint, body: bytes) -> Rows:
    """Read JSON Lines: an object, a list of values or `{"features": [...]}` a line. Raises Invalid, RowsRefused."""
    lines = [line for line in body.split(b"\n") if line.strip()]
    # As one list they are what other callers send as instances.
    found = read_json(b"[%b]" % b",".join(lines), Raw, what="the JSON of the lines")
    rows = read_instances(endpoint, bytes(found), Parameters(), what="the list of lines")
    if rows.count != len(lines):
        raise Invalid(f"the body has {len(lines)} lines and {rows.count} rows; expected one row a line")
    return rows


def write_csv(predictions: Sequence[Any]) -> bytes:
    """Return a line a prediction: its score, or all that it says, cell by cell."""
    if all(type(prediction) is float for prediction in predictions):
        return b"".join(b"%b\n" % encode(score) for score in predictions)
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    for prediction in predictions:
        told = list(prediction.values()) if isinstance(prediction, dict) else prediction if isinstance(prediction, list) else [prediction]
        cells = [cell for each in told for cell in (each if isinstance(each, list) else [each])]
        writer.writerow([cell if isinstance(cell, str) else encode_text(cell) for cell in cells])
    return lines.getvalue().encode()


def _lines(body: bytes) -> list[list[str]]:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Invalid(f"the CSV is not UTF-8: {error.reason} at byte {error.start}") from error
    try:
        return [cells for cells in csv.reader(io.StringIO(text, newline=""), strict=True) if cells]
    except csv.Error as error:
        raise Invalid(f"the CSV was not understood: {error}") from error


def _numbers(endpoint: Endpoint, lines: list[list[str]], names: list[str]) -> Rows | None:
    try:
        rows = [[None if cell in _MISSING else _number(cell) for cell in cells] for cells in lines]
    except ValueError:
        return None
    return take_numbers(endpoint, rows, names, Parameters())


def _kinds(endpoint: Endpoint) -> dict[str, ColumnKind]:
    """Return the kinds of the columns that models take and of the keys by which features are looked up."""
    found = {column.name: column.kind for variant in endpoint.variants.values() for column in variant.spec.signature.inputs}
    features = endpoint.config.features
    for plan in features.views if features is not None else ():
        for name, kind in zip(plan.view.entity, plan.key_kinds, strict=True):
            found.setdefault(name, kind)
    return found


def _value(cell: str, kind: ColumnKind) -> Any:
    """Return what a cell says; one that does not fit stays text, and is refused with its row and column."""
    if kind == "string":
        return cell or None
    if cell in _MISSING:
        return None
    if kind == "boolean":
        return _TRUTHS.get(cell.strip().lower(), cell)
    try:
        return int(cell) if kind == "long" and _WHOLE.fullmatch(cell) else _number(cell)
    except ValueError:
        return cell


def _number(cell: str) -> float:
    """Read a number as other languages write them, too. Raises ValueError."""
    if "_" in cell or not cell.isascii():
        raise ValueError(cell)
    number = float(cell)
    if not isfinite(number):
        raise ValueError(cell)
    return number
