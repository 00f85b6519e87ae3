"""What of a prediction is written down: an endpoint's policy of keeping, dropping and hashing, applied before anything is written.

Id, score, variant and times are always written, and so is the label key's value. What is answered beside the score is written unless
its name is among those that are dropped or hashed.
"""

import zlib
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from tidemill.core.secret import read_secret
from tidemill.core.values import replace
from tidemill.serving.block import Block
from tidemill.serving.config import EndpointOptions
from tidemill.serving.journal import PackedBlock, PredictionRecord
from tidemill.serving.outputs import NONE, Array, Others, pack_others
from tidemill.serving.runtimes.runtime import Column, Columns

SECRET_FILE = "journal.key"
HASH_BYTES = 16
_CRC_SPAN = 1 << 32


class JournalPolicy:
    """What one endpoint keeps. Decides by values alone, so that a prediction that is sent again is kept or left out again."""

    def __init__(self, options: EndpointOptions, state: Path) -> None:
        self._limit = round(options.journal_inputs * _CRC_SPAN)
        self._drop, self._hash = frozenset(options.journal_drop), frozenset(options.journal_hash)
        self._label_key = options.label_key
        self._secret = read_secret(state / SECRET_FILE) if self._hash else b""

    def records(self, bare: PredictionRecord, columns: Columns, others: Others = NONE) -> list[PredictionRecord]:
        """Return what is to be written: a record without inputs with those inputs that are kept, one for rows whose inputs are not."""
        others = self._shown(others)
        if self._label_key is not None and self._label_key in columns:
            bare = replace(bare, keys=self.key_texts(plain(columns[self._label_key])))
        kept = [place for place, unit in enumerate(bare.ids) if zlib.crc32(unit.encode()) < self._limit]
        if len(kept) == len(bare.ids):
            return [self._with_inputs(_with_others(bare, others), columns)]
        if not kept:
            return [replace(_with_others(bare, others), inputs_kept=False)]
        taken = columns.take(kept) if isinstance(columns, Block) else {name: _take(column, kept) for name, column in columns.items()}
        left = sorted(set(range(len(bare.ids))) - set(kept))
        return [
            self._with_inputs(_with_others(_some(bare, kept), others, kept), taken),
            replace(_with_others(_some(bare, left), others, left), inputs_kept=False),
        ]

    def key_texts(self, values: Sequence[Any]) -> list[str | None]:
        """Return values of the label key as they are journaled: text, hashed if that column is."""
        return [hashed(value, self._secret) if self._label_key in self._hash else text_of(value) for value in values]

    def _shown(self, others: Others) -> Others:
        return {
            name: _hashed_array(array, self._secret) if name in self._hash else array
            for name, array in others.items()
            if name not in self._drop
        }

    def _with_inputs(self, bare: PredictionRecord, columns: Columns) -> PredictionRecord:
        hidden = {name: [hashed(value, self._secret) for value in plain(columns[name])] for name in columns if name in self._hash}
        names = tuple(name for name in columns if name not in self._hash and name not in self._drop)
        if not isinstance(columns, Block):
            return replace(bare, columns={name: plain(columns[name]) for name in names} | hidden)
        matrix = columns.matrix if len(names) == len(columns.names) else columns.matrix[:, [columns.names.index(name) for name in names]]
        dtype = "<f4" if matrix.dtype == np.float32 else "<f8"
        block = PackedBlock(names=list(names), dtype=dtype, data=matrix.tobytes()) if names else None
        return replace(bare, columns=hidden, block=block)


def policy_of(options: EndpointOptions, state: Path) -> JournalPolicy | None:
    """Return the policy of an endpoint, None when all is written as it comes."""
    everything = options.journal_inputs == 1 and not options.journal_drop and not options.journal_hash and options.label_key is None
    return None if everything else JournalPolicy(options, state)


def hashed(value: Any, secret: bytes) -> str | None:
    """Return a value's BLAKE3 under a secret, 128 bits as hex digits: equal values stay equal, 5 as 5.0. None of None and NaN."""
    text = text_of(value)
    return None if text is None else blake3(text.encode(), key=secret).hexdigest(length=HASH_BYTES)


def text_of(value: Any) -> str | None:
    """Return a value as one text, whatever type it came in: 5 and 5.0 are "5". None of None and NaN."""
    if value is None or (isinstance(value, float) and isnan(value)):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def plain(column: Column) -> list[Any]:
    """Return a column as a list of Python values."""
    return column.tolist() if isinstance(column, np.ndarray) else list(column)


def _hashed_array(array: Array, secret: bytes) -> Array:
    texts = np.array([hashed(value, secret) for value in array.ravel().tolist()], dtype=object)
    return texts.reshape(array.shape)


def _with_others(record: PredictionRecord, others: Others, places: list[int] | None = None) -> PredictionRecord:
    taken = others if places is None else {name: array[places] for name, array in others.items()}
    return replace(record, others=pack_others(taken)) if taken else record


def _take(column: Column, places: list[int]) -> list[Any]:
    values = plain(column)
    return [values[place] for place in places]


def _some(record: PredictionRecord, places: list[int]) -> PredictionRecord:
    """Return some rows of a record that has no inputs."""

    def pick(values: Any) -> Any:
        return [values[place] for place in places] if isinstance(values, list) else values

    lists = ("ids", "scores", "variant", "latency_ms", "trace_id", "keys")
    return replace(record, **{name: pick(getattr(record, name)) for name in lists})
