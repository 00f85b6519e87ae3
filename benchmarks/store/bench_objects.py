"""The object store in a local directory, beside copying with a flush, hashing alone, and files written by hand."""

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.measure import Options, Report, in_turns, options, seconds

from tidemill.core.digest import digest_bytes
from tidemill.store.local import LocalStore

SMALL_BYTES = 2000


def flush(path: Path) -> None:
    """Bring a file, or a folder's list of files, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def large(report: Report, told: Options, folder: Path) -> None:
    """One file that does not fit any cache of the processor."""
    size = told.size(200_000_000, 1_000_000)
    source, copied = folder / "source", folder / "copied"
    with source.open("wb") as file:
        for _ in range(size // 1_000_000):
            file.write(os.urandom(1_000_000))
    flush(source)
    store = LocalStore(folder / "large")
    digest = store.put_file(source)

    def fresh() -> float:
        store.delete(digest)
        return size / seconds(lambda: store.put_file(source)) / 1e6

    def copy() -> float:
        copied.unlink(missing_ok=True)
        return size / seconds(lambda: (shutil.copyfile(source, copied), flush(copied))) / 1e6

    def sha() -> float:
        with source.open("rb") as file:
            return size / seconds(lambda: hashlib.file_digest(file, "sha256")) / 1e6

    def stream() -> None:
        with store.open(digest) as file:
            while file.read(1 << 20):
                pass

    tasks: dict[str, Callable[[], float]] = {
        "copyfile and fsync": copy,
        "sha256 of the file": sha,
        "put_file": fresh,
        "put_file of what is there": lambda: size / seconds(lambda: store.put_file(source)) / 1e6,
        "read_bytes": lambda: size / seconds(source.read_bytes) / 1e6,
        "get, verified": lambda: size / seconds(lambda: store.get(digest)) / 1e6,
        "open and read in pieces, verified": lambda: size / seconds(stream) / 1e6,
    }
    against = {
        "put_file": "copyfile and fsync",
        "put_file of what is there": "sha256 of the file",
        "get, verified": "read_bytes",
        "open and read in pieces, verified": "read_bytes",
    }
    for what, values in in_turns(told.rounds(5), tasks).items():
        report.add(what, "MB/s", values, against=against.get(what))


def small(report: Report, told: Options, folder: Path) -> None:
    """Many objects of a few kilobytes."""
    number = told.size(2000, 20)
    turns = count()
    store, flushing = LocalStore(folder / "small"), LocalStore(folder / "flushing", journal_after=sys.maxsize)
    hand = folder / "by-hand"
    hand.mkdir()
    written: list[bytes] = []

    def fresh() -> list[bytes]:
        written[:] = [f"{next(turns):016}".encode() + os.urandom(SMALL_BYTES) for _ in range(number)]
        return written

    def by_hand() -> float:
        data = fresh()
        return number / seconds(lambda: [write(piece) for piece in data])

    def write(data: bytes) -> None:
        target = hand / digest_bytes(data)
        scratch = target.with_suffix(".new")
        with scratch.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        scratch.rename(target)
        flush(hand)

    def put() -> float:
        data = fresh()
        return number / seconds(lambda: [store.put(piece) for piece in data])

    def put_flushing() -> float:
        data = fresh()
        return number / seconds(lambda: [flushing.put(piece) for piece in data])

    def get() -> float:
        digests = [digest_bytes(piece) for piece in written]
        return number / seconds(lambda: [store.get(digest) for digest in digests])

    def read() -> float:
        names = [hand / digest_bytes(piece) for piece in written]
        return number / seconds(lambda: [name.read_bytes() for name in names])

    tasks: dict[str, Callable[[], float]] = {"write, fsync, rename by hand": by_hand, "read_bytes, small": read}
    tasks |= {"put, without a journal": put_flushing, "put": put, "get": get}
    by_itself = "write, fsync, rename by hand"
    against = {"put, without a journal": by_itself, "put": by_itself, "get": "read_bytes, small"}
    for what, values in in_turns(told.rounds(5), tasks).items():
        report.add(what, "objects/s", values, against=against.get(what))


def main() -> None:
    """Measure and print."""
    told = options(__doc__)
    report = Report(
        "object store",
        f"one file of {told.size(200, 1)} MB that is in the page cache; {told.size(2000, 20):,} objects of {SMALL_BYTES} random bytes",
        ("blake3",),
    )
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as folder:
        large(report, told, Path(folder))
        small(report, told, Path(folder))
    report.show(told)


if __name__ == "__main__":
    main()
