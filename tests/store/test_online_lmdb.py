"""The LMDB online store: the conformance suite, and what only a mapped file can do."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tidemill.core.clock import wait_until
from tidemill.core.errors import Invalid, Unavailable
from tidemill.store.conformance import OnlineConformance
from tidemill.store.online_lmdb import FIRST_MAP_BYTES, LmdbStore
from tidemill.store.table import open_online


class TestLmdb(OnlineConformance):
    @pytest.fixture
    def online_url(self, tmp_path: Path) -> str:
        return f"lmdb:{tmp_path}/online"


def test_the_map_grows_when_it_is_full(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path)
    megabyte = b"x" * (1 << 20)
    count = FIRST_MAP_BYTES // len(megabyte) + 10
    for number in range(count):
        store.put_many("n", [(str(number).encode(), megabyte)])
    assert sum(len(value) for _, value in store.scan("n")) == count * len(megabyte)
    store.close()


def test_the_map_grows_only_while_no_thread_is_in_a_transaction(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path)
    environment = store._environment
    assert environment is not None
    inside, leave, told = threading.Event(), threading.Event(), []

    def read() -> None:
        environment.run(lambda _: (inside.set(), leave.wait(10), told.append("read")), write=False)

    def grow() -> None:
        environment.resize(environment.map_bytes)
        told.append("grown")

    def read_later() -> None:
        environment.run(lambda _: told.append("later"), write=False)

    threads = [threading.Thread(target=act) for act in (read, grow, read_later)]
    threads[0].start()
    assert inside.wait(10)
    threads[1].start()
    assert wait_until(lambda: environment._growing, timeout_s=10)
    threads[2].start()
    leave.set()
    for thread in threads:
        thread.join(10)
    assert told[0] == "read"  # "later" may come before "grown" is noted, yet not before it has grown
    assert sorted(told) == ["grown", "later", "read"]
    assert environment.map_bytes == 2 * FIRST_MAP_BYTES
    assert not any(counter.inside for counter in environment._counters)
    store.close()


GROWER = """
import sys
from pathlib import Path
from tidemill.store.online_lmdb import LmdbStore
store = LmdbStore(Path(sys.argv[1]))
for number in range(80):
    store.put_many("n", [(sys.argv[2].encode() + str(number).encode(), b"x" * (1 << 20))])
"""


@pytest.mark.slow
def test_processes_and_threads_see_a_map_that_another_has_grown(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path)
    store.put_many("n", [(b"mine", b"1")])
    done = threading.Event()
    failures: list[Exception] = []

    def read() -> None:
        while not done.is_set():
            try:
                assert store.get_many("n", [b"mine"]) == [b"1"]
            except (AssertionError, Unavailable) as error:
                failures.append(error)
                return

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    growers = [subprocess.Popen([sys.executable, "-c", GROWER, str(tmp_path), name]) for name in ("a", "b")]
    codes = [grower.wait(100) for grower in growers]
    done.set()
    for reader in readers:
        reader.join()
    assert (codes, failures) == ([0, 0], [])
    assert sum(1 for _ in store.scan("n")) == 161
    store.close()


def test_two_stores_of_one_path_share_the_file(tmp_path: Path) -> None:
    one, two = open_online(f"lmdb:{tmp_path}/x"), open_online("lmdb:x", base=tmp_path)
    one.put_many("n", [(b"k", b"v")])
    one.close()
    assert two.get_many("n", [b"k"]) == [b"v"]
    with pytest.raises(Unavailable, match="it was closed"):
        one.get_many("n", [b"k"])
    two.close()


def test_a_place_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(Unavailable, match="cannot be opened"):
        LmdbStore(tmp_path / "file")
    (tmp_path / "data.mdb").write_bytes(b"not LMDB" * 10000)
    with pytest.raises(Unavailable, match="cannot be opened"):
        LmdbStore(tmp_path)


def test_options_are_checked(tmp_path: Path) -> None:
    store = open_online("lmdb:x?sync=disk", base=tmp_path)
    store.put_many("n", [(b"k", b"v")])
    store.close()
    with pytest.raises(Invalid, match="sync=disk"):
        open_online("lmdb:x?sink=disk", base=tmp_path)


def test_a_full_disk_is_unavailable_and_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("a tmpfs cannot be mounted here (not root, or no permission)")
    try:
        store = LmdbStore(folder / "online")
        store.put_many("n", [(b"kept", b"1")])
        with pytest.raises(Unavailable, match="free space"):
            store.put_many("n", [(b"big", b"x" * (1 << 20))])
        assert store.get_many("n", [b"kept", b"big"]) == [b"1", None]
        store.close()
        del store
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
