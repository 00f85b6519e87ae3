"""An online store in LMDB: one memory-mapped file that the processes of a machine share."""

import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl

from tidemill.core.errors import Invalid
from tidemill.store.online import Change, OnlineUnavailable, changed, check_distinct, check_keys, check_namespace

if TYPE_CHECKING:
    import lmdb

T = TypeVar("T")

FIRST_MAP_BYTES = 64 << 20
MAX_READERS = 1024
SCAN_PAIRS = 1000


class _Counter:
    """In how many transactions a thread is."""

    __slots__ = ("__weakref__", "inside")

    def __init__(self) -> None:
        self.inside = 0


class _Mine(threading.local):
    """The counter of the thread that asks: nobody else changes it, so that it takes no lock."""

    def __init__(self, gate: threading.Condition, counters: "weakref.WeakSet[_Counter]") -> None:
        self.counter = _Counter()
        with gate:
            counters.add(self.counter)


class _Environment:
    """LMDB's environment of one file in one process, and the gate that keeps transactions out while its map grows."""

    def __init__(self, path: Path, sync: bool) -> None:
        import lmdb

        self.pid, self.path, self.library = os.getpid(), path, lmdb
        self._gate = threading.Condition()
        self._counters: weakref.WeakSet[_Counter] = weakref.WeakSet()
        self._mine = _Mine(self._gate, self._counters)
        self._growing = False
        try:
            path.mkdir(parents=True, exist_ok=True)
            self.lmdb = lmdb.open(
                str(path), map_size=FIRST_MAP_BYTES, max_readers=MAX_READERS, sync=sync, metasync=sync, max_spare_txns=8, readahead=False
            )
            self.lmdb.reader_check()  # slots of processes that were killed
            self.map_bytes = self.lmdb.info()["map_size"]
        except (OSError, lmdb.Error) as error:
            raise OnlineUnavailable(f"lmdb:{path}", f"its files cannot be opened ({error})") from error

    def run(self, work: "Callable[[lmdb.Transaction[bytes]], T]", *, write: bool) -> T:
        """Do work in a transaction. Raises what LMDB raises when the map is too small, or another process made it larger.

        A thread says first that it is inside and looks then whether the map grows; who lets it grow says so first and looks then who
        is inside. So one of them sees the other, and no transaction takes a lock.
        """
        mine = self._mine.counter
        mine.inside += 1
        if self._growing:
            self._wait(mine)
        try:
            with self.lmdb.begin(write=write) as transaction:
                return work(transaction)
        finally:
            mine.inside -= 1
            if self._growing:
                with self._gate:
                    self._gate.notify_all()

    def _wait(self, mine: _Counter) -> None:
        """Stand back until the map has grown."""
        with self._gate:
            mine.inside -= 1
            self._gate.notify_all()
            self._gate.wait_for(lambda: not self._growing)
            mine.inside += 1

    def resize(self, full_at: int) -> None:
        """Adopt the size that another process has given the map, or double it when it is still full_at (0: only adopt)."""
        with self._gate:
            self._gate.wait_for(lambda: not self._growing)
            self._growing = True
            try:
                self._gate.wait_for(lambda: not any(counter.inside for counter in self._counters))
                self.lmdb.set_mapsize(0)
                if full_at and self.lmdb.info()["map_size"] <= full_at:
                    self.lmdb.set_mapsize(full_at * 2)
                self.map_bytes = self.lmdb.info()["map_size"]
            finally:
                self._growing = False
                self._gate.notify_all()


# LMDB's locks belong to a process and a file, so that a file must be open once a process, however many stores name it.
_OPEN: "weakref.WeakValueDictionary[tuple[int, Path], _Environment]" = weakref.WeakValueDictionary()
_OPENING = threading.Lock()


def _environment(path: Path, sync: bool) -> _Environment:
    with _OPENING:
        key = (os.getpid(), path)
        environment = _OPEN.get(key)
        if environment is None:
            environment = _OPEN[key] = _Environment(path, sync)
        return environment


def _leave_to_parent() -> None:
    # A child must not use what its parent had open, and LMDB lets it open the file itself only once that is closed here,
    # which leaves the parent's own locks and readers alone.
    global _OPENING
    _OPENING = threading.Lock()
    for environment in list(_OPEN.values()):
        environment.lmdb.close()


os.register_at_fork(after_in_child=_leave_to_parent)


class LmdbStore:
    """Pairs under `namespace, 0, key` in one LMDB file.

    A committed write is in the page cache: it survives the process. With `sync` it survives a power cut too, at the cost of a
    disk flush a call; without, the store is to be filled again from the offline one after a power cut.
    """

    def __init__(self, path: Path, *, sync: bool = False) -> None:
        self._path, self._sync = path.resolve(), sync
        self._environment: _Environment | None = _environment(self._path, sync)

    def __repr__(self) -> str:
        return f"LmdbStore({str(self._path)!r})"

    def get_many(self, namespace: str, keys: Sequence[bytes]) -> list[bytes | None]:
        return self.get_all([(namespace, keys)])[0]

    def get_all(self, asked: Sequence[tuple[str, Sequence[bytes]]]) -> list[list[bytes | None]]:
        heads = [(_head(namespace), keys) for namespace, keys in asked]
        for _, keys in asked:
            check_keys(keys)

        def read(transaction: "lmdb.Transaction[bytes]") -> list[list[bytes | None]]:
            get = transaction.get
            return [[get(head + key) for key in keys] for head, keys in heads]

        return self._run(read, write=False)

    def put_many(self, namespace: str, items: Sequence[tuple[bytes, bytes]]) -> None:
        head = _head(namespace)
        check_keys([key for key, _ in items])

        def write(transaction: "lmdb.Transaction[bytes]") -> None:
            for key, value in items:
                transaction.put(head + key, value)

        self._run(write, write=True)

    def update_many(self, namespace: str, keys: Sequence[bytes], change: Change) -> None:
        head = _head(namespace)
        check_keys(keys)
        check_distinct(keys)

        def write(transaction: "lmdb.Transaction[bytes]") -> None:
            before = [transaction.get(head + key) for key in keys]
            for key, old, new in zip(keys, before, changed(change, before), strict=True):
                if new is None:
                    transaction.delete(head + key)
                elif new != old:
                    transaction.put(head + key, new)

        self._run(write, write=True)

    def scan(self, namespace: str, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        head = _head(namespace)
        start = head + prefix
        while True:  # in batches: a reader that stays open would keep freed pages from being used again, and the map from growing
            batch = self._run(lambda transaction, at=start: _pairs(transaction, at, head + prefix), write=False)  # type: ignore[misc]
            for key, value in batch:
                yield key[len(head) :], value
            if len(batch) < SCAN_PAIRS:
                return
            start = batch[-1][0] + b"\0"

    def clear(self, namespace: str) -> None:
        head = _head(namespace)

        def write(transaction: "lmdb.Transaction[bytes]") -> None:
            cursor = transaction.cursor()
            found = cursor.set_range(head)
            while found and cursor.key().startswith(head):
                found = cursor.delete()

        self._run(write, write=True)

    def close(self) -> None:
        self._environment = None

    def _run(self, work: "Callable[[lmdb.Transaction[bytes]], T]", *, write: bool) -> T:
        environment = self._environment
        if environment is None:
            raise OnlineUnavailable(f"lmdb:{self._path}", "it was closed")
        if environment.pid != os.getpid():
            environment = self._environment = _environment(self._path, self._sync)
        while True:
            size = environment.map_bytes
            try:
                return environment.run(work, write=write)
            except environment.library.MapFullError:
                grow = size
            except environment.library.MapResizedError:
                grow = 0
            except environment.library.Error as error:
                raise OnlineUnavailable(f"lmdb:{self._path}", f"{error}; check the disk and that it has free space") from error
            environment.resize(grow)


@lru_cache(maxsize=1024)
def _head(namespace: str) -> bytes:
    return check_namespace(namespace) + b"\0"


def _pairs(transaction: "lmdb.Transaction[bytes]", start: bytes, prefix: bytes) -> list[tuple[bytes, bytes]]:
    cursor = transaction.cursor()
    pairs: list[tuple[bytes, bytes]] = []
    if cursor.set_range(start):
        for key, value in cursor.iternext():
            if not key.startswith(prefix) or len(pairs) == SCAN_PAIRS:
                break
            pairs.append((key, value))
    return pairs


def open_lmdb(place: str, *, base: Path) -> LmdbStore:
    """Open `lmdb:FOLDER`, or `lmdb:FOLDER?sync=disk`. Raises Invalid."""
    folder, _, query = place.removeprefix("//").partition("?")
    options: dict[str, Any] = dict(parse_qsl(query))
    sync = options.pop("sync", "process")
    if options or sync not in ("process", "disk") or not folder:
        raise Invalid(f"online store 'lmdb:{place}' was not understood; expected lmdb:FOLDER or lmdb:FOLDER?sync=disk")
    return LmdbStore(base / folder, sync=sync == "disk")
