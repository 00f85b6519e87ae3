"""How many rows of waiting requests are scored at once: learned from how long rows took."""

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
CLASSES = 13  # up to 8,191 rows at once
TRIES = 4  # so often a class is tried before it is judged
BETTER, WORSE = 0.5, 0.05  # so much a sight replaces of what is known: whatever disturbs makes rows dearer, never cheaper
PAYS = 0.95  # rows are to cost this much of what they cost alone, at most, or requests stay alone
TURNS_KEPT = 2000  # then everything is measured anew: models warm up, machines get busy


class Pace:
    """What a row costs where n are scored at once, for n in classes: 1, 2 to 3, 4 to 7, and so on.

    Together, requests share what any of them costs beside its rows; but nobody is to wait for long because of the rows of others.
    So they go together in the class in which a row is cheapest, of those in which all rows take at most limit_s longer than the
    request's own do alone, or twice as long as these. A class is tried once the one below it turned out well, so that what is
    tried can be foreseen: costs that double with the rows keep the bound in it, too.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._row_s = [0.0] * CLASSES
        self._sights = [0] * CLASSES
        self._seen = 0

    def saw(self, rows: int, seconds: float) -> None:
        """Learn from rows that were scored at once."""
        place = min(rows.bit_length(), CLASSES) - 1
        known, row_s = self._row_s[place], seconds / rows
        if self._sights[place]:
            row_s = known + (row_s - known) * (BETTER if row_s < known else WORSE)
        self._row_s[place] = row_s
        self._sights[place] += 1
        self._seen += 1
        if self._seen >= TURNS_KEPT:
            self._sights, self._seen = [0] * CLASSES, 0

    def most(self, rows: int) -> int:
        """Return how many rows are to be scored at once where a request has that many."""
        place = min(rows.bit_length(), CLASSES) - 1
        alone = self._row_s[place]
        if self.limit_s <= 0 or not self._sights[place]:
            return rows
        longest_s = rows * alone + max(self.limit_s, rows * alone)
        best, cheapest = rows, alone * PAYS
        for bigger in range(place + 1, CLASSES):
            size, row_s, sights = (2 << bigger) - 1, self._row_s[bigger], self._sights[bigger]
            if size * (row_s if sights else self._row_s[bigger - 1]) > longest_s:
                break
            if sights < TRIES:
                return size
            if row_s >= cheapest:
                break
            best, cheapest = size, row_s
        return best

    def groups(self, asked: Sequence[T], rows_of: Callable[[T], int]) -> list[list[T]]:
        """Return requests in groups that are to be scored at once, in their order."""
        if len(asked) == 1:
            return [[asked[0]]]
        counts = list(map(rows_of, asked))
        most = self.most(min(counts))
        found: list[list[T]] = []
        room = 0
        for each, count in zip(asked, counts, strict=True):
            if count > room:
                found.append([])
                room = most
            found[-1].append(each)
            room -= count
        return found
