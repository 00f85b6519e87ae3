"""The journal of a local store: what it acknowledged is there after the memory of the machine was lost."""

import errno
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.store import test_local
from tidemill.core.digest import digest_bytes
from tidemill.core.errors import Unavailable
from tidemill.core.ids import Digest
from tidemill.store.journal import CAN_FLUSH, SIZE_BYTES, boot
from tidemill.store.local import LocalStore
from tidemill.store.objects import ObjectStore

pytestmark = pytest.mark.skipif(not CAN_FLUSH, reason="a file system cannot be flushed whole here, so nothing is noted")


class TestWithJournal(test_local.TestLocalStore):
    """The law of `ObjectStore` once more, with a journal from the first put on."""

    @pytest.fixture
    def store(self, store_url: str, tmp_path: Path) -> ObjectStore:
        return LocalStore(tmp_path / "store", journal_after=0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> LocalStore:
    return LocalStore(root, journal_after=0)


def put_all(root: Path, *groups: Sequence[bytes]) -> None:
    """Put objects into a store that nobody holds any more afterwards, each group from many threads."""
    store = LocalStore(root, journal_after=0)
    for blobs in groups:
        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(store.put, blobs)) == [digest_bytes(blob) for blob in blobs]


def journals(root: Path) -> list[Path]:
    return sorted((root / "journal").iterdir())


def lose_memory(root: Path, *, lost: Callable[[int], bool] = lambda number: True) -> None:
    """Do to a store what a power cut does: files that were not flushed are away or empty, and the machine starts anew."""
    for number, path in enumerate(sorted(path for path in (root / "objects").rglob("*") if path.is_file())):
        if lost(number):
            path.chmod(0o644)
            path.write_bytes(b"")
            if number % 2:
                path.unlink()
    for path in journals(root):
        path.rename(path.with_name(path.name.replace(boot(), "an-earlier-start")))


PUTTER = """
import sys
from pathlib import Path
from tidemill.store.local import LocalStore
store = LocalStore(Path(sys.argv[1]), journal_after=0)
for number in range(10**9):
    print(store.put(b"%d kept" % number), flush=True)
"""


@pytest.mark.slow
def test_what_a_killed_process_acknowledged_outlives_a_power_cut(tmp_path: Path) -> None:
    root, told = tmp_path / "store", []
    with subprocess.Popen([sys.executable, "-c", PUTTER, str(root)], stdout=subprocess.PIPE) as putter:
        assert putter.stdout is not None
        told = [putter.stdout.readline() for _ in range(300)]
        putter.send_signal(signal.SIGKILL)
        told += [line for line in putter.stdout.read().splitlines(keepends=True) if line.endswith(b"\n")]
    lose_memory(root, lost=lambda number: number % 3 > 0)
    store = LocalStore(root)
    for number, line in enumerate(told):
        assert store.get(Digest(line.decode().strip())) == b"%d kept" % number
    assert journals(root) == []
    assert {path.stat().st_mode & 0o777 for path in (root / "objects").rglob("*") if path.is_file()} == {0o444}


def test_a_record_that_was_cut_off_is_none_and_those_before_it_are(root: Path) -> None:
    blobs = [b"first", b"", b"second", b"cut off"]
    put_all(root, *([blob] for blob in blobs))
    (journal,) = journals(root)
    data = bytearray(journal.read_bytes())
    data[data.index(b"cut off") + 3] ^= 1
    journal.write_bytes(data)
    lose_memory(root)
    assert set(LocalStore(root).digests()) == {digest_bytes(blob) for blob in blobs[:3]}


@pytest.mark.slow
def test_a_full_journal_is_begun_again_and_what_comes_then_is_kept_too(root: Path) -> None:
    blobs = [b"%d" % number * 3000 for number in range(400)]
    last = [b"last %d" % number for number in range(20)]
    put_all(root, blobs, last)
    (journal,) = journals(root)
    assert journal.stat().st_size == SIZE_BYTES < sum(map(len, blobs))
    for blob in last:
        test_local.object_path(root, digest_bytes(blob)).unlink()
    lose_memory(root, lost=lambda number: False)
    store = LocalStore(root)
    assert [store.get(digest_bytes(blob)) for blob in blobs + last] == blobs + last


def test_whoever_opens_the_store_removes_journals_of_processes_that_ended_alone(store: LocalStore) -> None:
    store.put(b"mine")
    (mine,) = journals(store.root)
    script = "import sys; from pathlib import Path; from tidemill.store.local import LocalStore as Store"
    subprocess.run([sys.executable, "-c", f"{script}; Store(Path(sys.argv[1]), journal_after=0).put(b'its')", str(store.root)], check=True)
    assert len(journals(store.root)) == 2
    assert set(LocalStore(store.root).digests()) == {digest_bytes(b"mine"), digest_bytes(b"its")}
    assert journals(store.root) == [mine]
    store.put(b"mine, too")
    assert b"mine, too" in mine.read_bytes()


def test_what_was_deleted_does_not_come_back_when_its_process_has_ended(root: Path) -> None:
    store = LocalStore(root, journal_after=0)
    for blob in (b"gone", b"stays"):
        store.put(blob)
    assert store.delete(digest_bytes(b"gone"))
    del store
    assert len(journals(root)) == 1
    assert list(LocalStore(root).digests()) == [digest_bytes(b"stays")]


def test_a_store_on_a_read_only_disk_opens_unless_something_is_missing(tiny_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=4m", str(tiny_disk)], check=True)
    root = tiny_disk / "store"
    put_all(root, [b"here"])
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    assert LocalStore(root).get(digest_bytes(b"here")) == b"here"
    subprocess.run(["mount", "-o", "remount,rw", str(tiny_disk)], check=True)
    lose_memory(root)
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    with pytest.raises(Unavailable, match="the disk is read-only; mount it for writing"):
        LocalStore(root)


def test_after_a_flush_that_failed_another_journal_is_begun(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(b"before")

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "the disk is ill")

    with monkeypatch.context() as ill:
        ill.setattr(os, "fdatasync", fail)
        with pytest.raises(Unavailable, match="the disk reports an input/output error"):
            store.put(b"refused")
    assert not store.has(digest_bytes(b"refused"))
    store.put(b"after")
    held = [path.read_bytes() for path in journals(store.root)]
    assert sorted((b"before" in data, b"after" in data) for data in held) == [(False, True), (True, False)]


def test_a_forked_child_notes_in_a_journal_of_its_own(store: LocalStore) -> None:
    store.put(b"of the parent")
    child = multiprocessing.get_context("fork").Process(target=store.put, args=(b"of the child",))
    child.start()
    child.join(30)
    store.put(b"of the parent, too")
    held = [path.read_bytes().count(b"of the") for path in journals(store.root)]
    assert sorted(held) == [1, 2]


def test_a_few_small_objects_and_large_ones_need_no_journal(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    for number in range(10):
        store.put(b"%d" % number)
        store.put(b"%d" % number * 20_000)
    assert not (tmp_path / "store" / "journal").exists()


def test_without_room_for_a_journal_objects_are_kept_all_the_same(store: LocalStore) -> None:
    before, limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE_BYTES // 2, limit))
    try:
        assert store.get(store.put(b"small")) == b"small"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, limit))
    assert journals(store.root) == []
