"""What models said of rows before, to be said again when the same row comes: for models that cost more than to look it up."""

import threading
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from tidemill.core.codec import pack
from tidemill.core.ids import Digest
from tidemill.core.signature import Output
from tidemill.serving.block import Block
from tidemill.serving.outputs import NONE, Others, array_of
from tidemill.serving.runtimes.runtime import Columns

DIGEST_BYTES = 16


class ScoreCache:
    """What was said of rows by model, for so many rows at most: the one asked for the longest ago goes first. Safe from several threads.

    That is a score, or a tuple of the score and what was said beside it.
    """

    def __init__(self, rows: int) -> None:
        self._most = rows
        self._scores: dict[bytes, Any] = {}  # in the order in which they were asked for
        self._guard = threading.Lock()

    def known(self, keys: Sequence[bytes]) -> list[Any]:
        """Return what was said of each row, None where nothing is known."""
        found: list[Any] = []
        with self._guard:
            for key in keys:
                score = self._scores.pop(key, None)
                if score is not None:
                    self._scores[key] = score
                found.append(score)
        return found

    def learn(self, keys: Sequence[bytes], said: Sequence[Any]) -> None:
        """Keep what a model said of rows."""
        with self._guard:
            self._scores.update(zip(keys, said, strict=True))
            while len(self._scores) > self._most:
                del self._scores[next(iter(self._scores))]


def row_keys(bundle: Digest, columns: Columns, needs: tuple[str, ...], count: int) -> list[bytes]:
    """Return a key for each row and model: BLAKE2b of the values that the model takes, keyed with the digest of its bundle."""
    salt = blake2b(bundle.encode(), digest_size=DIGEST_BYTES).digest()
    if type(columns) is Block:
        matrix = columns.matrix if columns.names == needs else np.stack([columns[name] for name in needs], axis=1)
        data, width = matrix.astype("<f8", copy=False).tobytes(), 8 * len(needs)
        rows = [data[place : place + width] for place in range(0, count * width, width)]
    else:
        lists = [column.tolist() if isinstance(column := columns[name], np.ndarray) else column for name in needs]
        rows = [pack(list(row)) for row in zip(*lists, strict=True)]
    return [blake2b(row, digest_size=DIGEST_BYTES, key=salt).digest() for row in rows]


def said_of(scores: list[float], others: Others) -> list[Any]:
    """Return what was said of each row, as it is kept."""
    return list(zip(scores, *(array.tolist() for array in others.values()), strict=True)) if others else scores


def said_again(found: list[Any], outputs: Sequence[Output]) -> tuple[list[float], Others]:
    """Return what was kept as a model says it. outputs: what was said beside the score."""
    if not outputs:
        return found, NONE
    scores, *values = zip(*found, strict=True)
    return list(scores), {output.name: array_of(each, output) for output, each in zip(outputs, values, strict=True)}
