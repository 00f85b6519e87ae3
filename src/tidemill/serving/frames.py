"""Rows and predictions as the JSON of MLflow, SageMaker and KServe has them. Rows are matrices, columns or records.

Values without names fill the columns in the order in which `GET /v2/models/ENDPOINT` lists them. null and NaN mean missing.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from tidemill.core.codec import Attempt, T, decode, encode
from tidemill.core.errors import Invalid
from tidemill.core.values import Value, Wire
from tidemill.serving.block import Block
from tidemill.serving.parameters import Parameters
from tidemill.serving.predict import Answered, Endpoint
from tidemill.serving.rows import Rows, RowsRefused, whole

IDS_HEADER = b"tidemill-prediction-ids"
IDS_HEADER_BYTES = 4096  # of the 8 KiB that proxies allow for all headers

# Everything up to the next word that is no JSON, strings as wholes, so that words in them stay. Nothing is looked at twice, whatever it is.
_NOT_JSON = re.compile(
    rb'((?:"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[^"NI-]++|N(?!aN)|I(?!nfinity)|-(?!Infinity))*+)(NaN|-?Infinity|\Z)', re.DOTALL
)


class Dense(Value, frozen=True, kw_only=True):
    """A row in SageMaker's dense form."""

    features: list[Any]


class PredictionsAnswer(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to a request, a prediction a row; the ids are there when they are too many for a header.

    A prediction is the score; of a model that answers one row of numbers, a list of them; of one that answers more, an object by name.
    """

    predictions: list[float | list[Any] | dict[str, Any]]
    prediction_ids: list[str] | None = None


_NUMBERS = Attempt(list[list[float | None]])
_DENSE = Attempt(list[Dense])


def read_json(body: bytes, kind: type[T], *, what: str) -> T:
    """Read JSON in which Python's `NaN` may stand for null. Raises Invalid."""
    try:
        return decode(body, kind, what=what)
    except Invalid:
        if b"NaN" not in body and b"Infinity" not in body:
            raise
    return decode(_NOT_JSON.sub(_missing, body), kind, what=what)


def read_instances(endpoint: Endpoint, data: bytes, parameters: Parameters, *, what: str) -> Rows:
    """Read a list of rows (objects, lists, or values of a single column), or an object of columns. Raises Invalid, RowsRefused."""
    if data.startswith(b"{"):
        return _columns(endpoint, decode(data, dict[str, Any], what=what), parameters)
    if not data.startswith(b"["):
        raise Invalid(f"{what} is neither a list nor an object; expected a list of rows, or an object of columns")
    if data[1:].lstrip(b" \t\r\n").startswith(b"{"):
        dense = _DENSE.read(data) if "features" not in endpoint.schema.types else None
        if dense is None:
            return read_records(endpoint, data, parameters)
        return _take_matrix(endpoint, [row.features for row in dense], None, parameters)
    return read_matrix(endpoint, data, None, parameters, what=what)


def read_matrix(endpoint: Endpoint, data: bytes, names: Sequence[str] | None, parameters: Parameters, *, what: str) -> Rows:
    """Read a list of lists of values, or a list of values of a single column. Raises Invalid, RowsRefused."""
    numbers = _NUMBERS.read(data)
    if numbers is not None:
        rows = take_numbers(endpoint, numbers, names, parameters)
        if rows is not None:
            return rows
    found = decode(data, list[Any], what=what)
    lists = sum(isinstance(row, list) for row in found)
    if 0 < lists < len(found):
        raise Invalid(f"{what} has rows that are lists and others that are none; expected a list of values for each row")
    return _take_matrix(endpoint, found if lists else [[value] for value in found], names, parameters)


def read_records(endpoint: Endpoint, data: bytes, parameters: Parameters) -> Rows:
    """Read a list of objects. Raises Invalid, RowsRefused."""
    # Decoding into the endpoint's own row is checking, and faster than taking columns out of objects.
    schema = endpoint.schema
    try:
        return schema.decode(_request(data, parameters))
    except RowsRefused:
        found = decode(data, list[Any], what="request")
        if not schema.wholes or not all(isinstance(row, dict) for row in found):
            raise
    mended = [{name: whole(value) if name in schema.wholes else value for name, value in row.items()} for row in found]
    return schema.decode(_request(encode(mended), parameters))


def encode_predictions(endpoint: Endpoint, rows: Rows, answered: Answered) -> bytes:
    """Return the predictions as JSON, with their ids when `id_lines` has no room for them."""
    ids = None if rows.ids is not None or id_lines(rows, answered) else answered.ids
    return encode(PredictionsAnswer(predictions=predictions_of(endpoint, answered), prediction_ids=ids))


def predictions_of(endpoint: Endpoint, answered: Answered) -> list[Any]:
    """Return the prediction of each row, as MLflow's own server would give it."""
    others, whole = answered.others, endpoint.whole
    if not others:
        return answered.scores
    if len(others) == 1 and whole is not None:
        rows: list[Any] = others[whole].tolist()
        return rows
    lists = {name: array.tolist() for name, array in others.items()}
    named = lists if whole is not None else {endpoint.output: answered.scores, **lists}
    return [dict(zip(named, values, strict=True)) for values in zip(*named.values(), strict=True)]


def id_lines(rows: Rows, answered: Answered) -> bytes:
    """Return the header line with the prediction ids. Empty when they are too many, or the caller's own, which may hold anything."""
    told = b"" if rows.ids is not None else ",".join(answered.ids).encode()
    return b"%b: %b\r\n" % (IDS_HEADER, told) if 0 < len(told) <= IDS_HEADER_BYTES else b""


def take_numbers(
    endpoint: Endpoint, rows: list[list[float | None]], names: Sequence[str] | None, parameters: Parameters
) -> Rows | None:  # fmt: skip
    """Return rows of numbers as one block, None when the endpoint does not take them so. Raises RowsRefused."""
    width = len(rows[0]) if rows else 0
    named = tuple(endpoint.schema.types)[:width] if names is None else tuple(names)
    if width == 0 or len(named) != width or len(set(named)) != width or not endpoint.schema.types.keys() >= set(named):
        return None
    if not endpoint.schema.takes_block(named) or any(len(row) != width for row in rows):
        return None
    return endpoint.schema.take_block(Block(named, np.array(rows, dtype=np.float64)), ids=parameters.ids, at=parameters.at)


def leading_columns(endpoint: Endpoint, width: int) -> list[str]:
    """Return the names of values that come without names. Optional columns at the end may be left out. Raises Invalid."""
    known = list(endpoint.schema.types)
    if width > len(known):
        raise Invalid(f"the first row has {width} values; endpoint {endpoint.config.key!r} takes {len(known)}: {', '.join(known)}")
    return known[:width]


def _take_matrix(endpoint: Endpoint, rows: list[list[Any]], names: Sequence[str] | None, parameters: Parameters) -> Rows:
    width = len(names) if names is not None else len(rows[0]) if rows else 0
    for place, row in enumerate(rows):
        if len(row) != width:
            raise Invalid(f"row {place} has {len(row)} values; expected {width}, as many as there are columns")
    named = leading_columns(endpoint, width) if names is None else names
    if len(set(named)) != len(named):
        raise Invalid(f"column {next(name for name in named if list(named).count(name) > 1)!r} comes twice")
    columns = {name: [row[place] for row in rows] for place, name in enumerate(named)}
    return endpoint.schema.take(columns, len(rows), ids=parameters.ids, at=parameters.at)


def _columns(endpoint: Endpoint, found: dict[str, Any], parameters: Parameters) -> Rows:
    """Return columns of values as rows: lists, lists of single values, or one value each.

    A tensor of the model file, [n, k], may stand in place of the columns that fill it.
    """
    if found and not any(isinstance(values, list) for values in found.values()):
        found = {name: [value] for name, value in found.items()}
    columns: dict[str, list[Any]] = {}
    count = -1
    for key, values in found.items():
        names = (key,) if key in endpoint.schema.types else endpoint.main.spec.tensors.get(key, (key,))
        if not isinstance(values, list):
            raise Invalid(f"column {key!r} is no list; expected one value a row")
        if count not in (-1, len(values)):
            raise Invalid(f"column {key!r} has {len(values)} values, the others {count}; expected as many in each")
        count = len(values)
        for place, row in enumerate(values):
            if isinstance(row, list) and len(row) != len(names):
                raise Invalid(f"row {place} of {key!r} has {len(row)} values; expected {len(names)}")
            if not isinstance(row, list) and len(names) > 1:
                raise Invalid(f"row {place} of {key!r} is no list; expected {len(names)} values: {', '.join(names)}")
        for place, name in enumerate(names):
            if name in columns:
                raise Invalid(f"column {name!r} comes twice")
            columns[name] = [row[place] if isinstance(row, list) else row for row in values]
    return endpoint.schema.take(columns, max(count, 0), ids=parameters.ids, at=parameters.at)


def _request(rows: bytes, parameters: Parameters) -> bytes:
    return b'{"rows":%b,"ids":%b,"at":%b}' % (rows, encode(parameters.ids), encode(parameters.at))


def _missing(match: re.Match[bytes]) -> bytes:
    before, word = match.groups()
    if word.endswith(b"Infinity"):
        raise Invalid(f"request holds {word.decode()}; expected finite numbers, and null or NaN for what is missing")
    return before + b"null" if word else before
