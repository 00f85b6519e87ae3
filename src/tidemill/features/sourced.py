"""A dataset's rows as events to be stored online, column by column. The same of rows that a caller sent is `incoming`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tidemill.core.errors import Invalid
from tidemill.features.computed import with_computed
from tidemill.features.incoming import Incoming, KeyKind, entity_keys, event_keys_of, gathered, hashes_of, tails_of
from tidemill.features.keys import NEVER, moments_of, plain_of, texts_of
from tidemill.features.stored import Form
from tidemill.features.values import values_of
from tidemill.features.views import FeatureView
from tidemill.features.windows import Ints


def from_table(form: Form, kinds: Sequence[KeyKind], event_key: KeyKind | None, rows: pa.Table) -> Incoming:
    """Hold rows of a dataset against a view, column by column. Raises Invalid."""
    view = form.view
    missing = [name for name in view.needs if name not in rows.column_names]
    if missing:
        raise Invalid(f"source {view.source!r} of feature view {view.name!r} has no column {', '.join(missing)}")
    rows = with_computed(rows.select(view.needs), view.computed)
    what = f"the events of {view.source}"
    times = moments_of(rows, view.event_timestamp, what=what)
    written = moments_of(rows, view.created_timestamp, what=what) if view.created_timestamp is not None else None
    keys = hashes = None
    if view.event_key is not None:
        encoded: Any = plain_of(rows.column(view.event_key)).combine_chunks().dictionary_encode()
        if encoded.null_count:
            raise Invalid(f"{encoded.null_count} {what} have no {view.event_key!r}; an event key is needed in every row")
        distinct = event_keys_of(view, event_key, {view.event_key: encoded.dictionary.to_pylist()}) or []
        places = encoded.indices.to_numpy()
        hashes = hashes_of(distinct)[places] if distinct else np.empty(0, dtype=np.int64)
        keys = [distinct[place] for place in places.tolist()] if form.tailed else None
    numbers = [values_of(rows.column(name), name, view) for name in form.numbers]
    texts = [texts_of(rows.column(name)).dictionary_decode().to_pylist() for name in form.texts]
    owners, entities = _entities(view, kinds, rows)
    tails = tails_of(keys, texts, times.size) if form.tailed else None
    owners = np.where(times == NEVER, -1, owners)
    return gathered(form, entities, owners, times, written, hashes, numbers, tails)


def _entities(view: FeatureView, kinds: Sequence[KeyKind], rows: pa.Table) -> tuple[Ints, list[bytes]]:
    """Return the number of each row's entity, -1 where a part of its key is missing, and the entities' keys."""
    codes = np.zeros(rows.num_rows, dtype=np.int64)
    known: list[list[Any]] = []
    nobody = np.zeros(rows.num_rows, dtype=np.bool_)
    for name in view.entity:
        encoded: Any = plain_of(rows.column(name)).combine_chunks().dictionary_encode()
        nobody |= encoded.indices.is_null().to_numpy(zero_copy_only=False)
        known.append(encoded.dictionary.to_pylist())
        codes = codes * max(1, len(known[-1])) + encoded.indices.fill_null(0).to_numpy()
    if len(known) == 1:
        distinct, owners = np.arange(len(known[0])), codes
    else:
        distinct, owners = np.unique(codes, return_inverse=True)
    parts: list[list[Any]] = []
    left = distinct
    for values in reversed(known):
        parts.insert(0, [values[place] for place in (left % max(1, len(values))).tolist()] if values else [None] * left.size)
        left = left // max(1, len(values))
    keys = entity_keys(view, kinds, list(zip(*parts, strict=True)))
    return np.where(nobody, -1, owners), [key or b"" for key in keys]
