"""What models said of rows before, to be said again when the same row comes: for models that cost more than to look it up."""

import threading
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from tidemill.core.codec import pack
from tidemill.core.ids import Digest
from tidemill.serving.block import Block
from tidemill.serving.runtimes.runtime import Columns

DIGEST_BYTES = 16


class ScoreCache:
    """Scores of rows by model, for so many rows at most: the one asked for the longest ago goes first. Safe from several threads."""

    def __init__(self, rows: int) -> None:
        self._most = rows
        self._scores: dict[bytes, float] = {}  # in the order in which they were asked for
        self._guard = threading.Lock()

    def known(self, keys: Sequence[bytes]) -> list[float | None]:
        """Return what was said of each row, None where nothing is known."""
        found: list[float | None] = []
        with self._guard:
            for key in keys:
                score = self._scores.pop(key, None)
                if score is not None:
                    self._scores[key] = score
                found.append(score)
        return found

    def learn(self, keys: Sequence[bytes], scores: Sequence[float]) -> None:
        """Keep what a model said of rows."""
        with self._guard:
            self._scores.update(zip(keys, scores, strict=True))
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
