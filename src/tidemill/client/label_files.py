"""Files of labels in pieces, so that they may be larger than memory: CSV, or a JSON object a line."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

Pieces = Callable[[Iterable[str], int], Iterator[bytes]]


def pieces_of(path: Path) -> tuple[Pieces, str]:
    """Return how a file is cut, and the media type of its pieces: CSV by its name (.csv), else a JSON object a line."""
    return (csv_pieces, "text/csv") if path.suffix == ".csv" else (line_pieces, "application/x-ndjson")


def line_pieces(file: Iterable[str], size: int) -> Iterator[bytes]:
    """Yield the lines of a file, so many at once."""
    lines = (line for line in file if line.strip())
    while piece := list(islice(lines, size)):
        yield "\n".join(line.rstrip("\r\n") for line in piece).encode()


def csv_pieces(file: Iterable[str], size: int) -> Iterator[bytes]:
    """Yield the rows of a CSV file, so many at once, each time below the names of its columns."""
    rows = csv.reader(file)
    names = next(rows, [])
    while piece := list(islice(rows, size)):
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([names, *piece])
        yield out.getvalue().encode()
