"""The local object store: the conformance suite, and what only a disk can do."""

import os
import resource
import signal
import stat
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from tidemill.core.clock import from_micros, wait_until, wall
from tidemill.core.digest import digest_bytes
from tidemill.core.errors import Unavailable
from tidemill.core.ids import Digest
from tidemill.store.conformance import StoreConformance
from tidemill.store.local import LocalStore
from tidemill.store.trees import put_tree
from tidemill.store.upkeep import gc


def object_path(root: Path, digest: Digest) -> Path:
    return root / "objects" / digest[:2] / digest[2:]


def age(root: Path, digest: Digest, seconds: float) -> None:
    os.utime(object_path(root, digest), (wall() - seconds,) * 2)


class TestLocalStore(StoreConformance):
    @pytest.fixture
    def store_url(self, tmp_path: Path) -> str:
        return f"file:{tmp_path}/store"

    @pytest.fixture
    def damage(self, tmp_path: Path) -> Callable[[Digest], None]:
        def flip(digest: Digest) -> None:
            path = object_path(tmp_path / "store", digest)
            path.chmod(0o644)
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)

        return flip


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def test_an_object_is_a_read_only_file(store: LocalStore) -> None:
    mode = stat.S_IMODE(store.local_path(store.put(b"mine")).stat().st_mode)
    assert mode == 0o444


WRITER = """
import sys, time
from pathlib import Path
from tidemill.store.local import LocalStore

def chunks():
    for _ in range(20):
        yield b"x" * (1 << 20)
    print("half way", flush=True)
    time.sleep(600)
    yield b"y"

LocalStore(Path(sys.argv[1])).put_chunks(chunks())
"""


@pytest.mark.slow
def test_a_killed_writer_leaves_nothing_visible(store: LocalStore) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(store.root)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"half way\n"
        writer.send_signal(signal.SIGKILL)
    assert list(store.digests()) == []
    (left,) = (store.root / "scratch").iterdir()
    assert left.stat().st_size == 20 << 20
    assert store.sweep(timedelta(hours=1)) == 0
    os.utime(left, (wall() - 7200,) * 2)
    assert store.sweep(timedelta(hours=1)) == 20 << 20
    assert list((store.root / "scratch").iterdir()) == []


def test_a_full_disk_is_one_clear_sentence(store: LocalStore) -> None:
    before, limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit))
    try:
        with pytest.raises(Unavailable, match=r"object store file:.* cannot be used: the file would be larger"):
            store.put(b"x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, limit))
    assert list(store.digests()) == []
    assert list((store.root / "scratch").iterdir()) == []


def test_a_disk_without_space_is_one_clear_sentence(tiny_disk: Path) -> None:
    store = LocalStore(tiny_disk / "store")
    kept = store.put(b"small")
    with pytest.raises(Unavailable, match="the disk is full; free some space"):
        store.put(os.urandom(1 << 20))
    assert list(store.digests()) == [kept]
    assert store.get(kept) == b"small"
    assert list((store.root / "scratch").iterdir()) == []


def test_a_read_only_disk_is_one_clear_sentence(tiny_disk: Path) -> None:
    store = LocalStore(tiny_disk / "store")
    kept = store.put(b"small")
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    with pytest.raises(Unavailable, match="the disk is read-only"):
        store.put(b"more")
    with pytest.raises(Unavailable, match="the disk is read-only"):
        LocalStore(tiny_disk / "other")
    assert store.get(kept) == b"small"


def test_a_file_where_the_folder_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(Unavailable, match="is not a folder"):
        LocalStore(tmp_path / "file" / "store")


@pytest.mark.slow
def test_a_large_file_takes_bounded_memory(store: LocalStore, tmp_path: Path) -> None:
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(200 << 20)
    tracemalloc.start()
    try:
        digest = store.put_file(big)
        with store.open(digest) as stream:
            while stream.read(1 << 20):
                pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert store.size(digest) == 200 << 20
    assert peak < 8 << 20


def test_gc_removes_the_old_and_follows_trees(store: LocalStore) -> None:
    tree = put_tree(store, {"a": b"in the tree"})
    dead, young = store.put(b"dead"), store.put(b"young")
    odd = store.put(b'{"kind":"tree", but not really')
    for digest in (tree, digest_bytes(b"in the tree"), dead, odd):
        age(store.root, digest, 7200)
    report = gc(store, iter([tree, odd]), older_than=timedelta(hours=1))
    assert (report.live, report.young, report.removed, report.freed_bytes) == (3, 1, 1, 4)
    assert not store.has(dead)
    assert store.has(young)
    assert store.has(digest_bytes(b"in the tree"))


def test_a_put_of_old_bytes_makes_them_young_so_that_gc_spares_them(store: LocalStore, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(b"put again")
    digest = store.put(b"put again")
    for again in (lambda: store.put(b"put again"), lambda: store.put_file(copy)):
        age(store.root, digest, 7200)
        again()
        assert gc(store, [], older_than=timedelta(hours=1)).removed == 0
    assert store.delete(digest, stored_before=from_micros(int((wall() - 60) * 1e6))) is False


PUTTER = """
import sys
from pathlib import Path
from tidemill.store.local import LocalStore
store = LocalStore(Path(sys.argv[1]))
print("ready", flush=True)
for number in range(300):
    digest = store.put(b"contested %d" % (number % 5))
    assert store.has(digest), digest
"""


@pytest.mark.slow
def test_gc_never_removes_what_a_put_has_just_confirmed(store: LocalStore) -> None:
    with subprocess.Popen([sys.executable, "-c", PUTTER, str(store.root)], stdout=subprocess.PIPE) as putter:
        assert putter.stdout is not None
        putter.stdout.readline()
        while putter.poll() is None:
            for digest in list(store.digests()):
                if store.delete(digest, stored_before=from_micros(int((wall() - 0.2) * 1e6))):
                    continue
                if store.has(digest):
                    age(store.root, digest, 0.19)
    assert putter.returncode == 0


SAME_PUTTER = """
import sys
from pathlib import Path
from tidemill.store.local import LocalStore
print(LocalStore(Path(sys.argv[1])).put(b"same" * 100_000))
"""


def test_concurrent_writers_in_processes_store_one_object(store: LocalStore) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", SAME_PUTTER, str(store.root)], stdout=subprocess.PIPE) for _ in range(3)]
    said = {writer.communicate()[0].decode().strip() for writer in writers}
    assert wait_until(lambda: all(writer.returncode == 0 for writer in writers), timeout_s=1)
    assert said == {digest_bytes(b"same" * 100000)} == set(store.digests())
