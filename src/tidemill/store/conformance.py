"""What every store must do, as tests. A test class inherits a suite and gives it a URL; nothing else is needed for a new store.

class TestLocal(StoreConformance):
    @pytest.fixture
    def store_url(self, tmp_path): return f"file:{tmp_path}/store"

    @pytest.fixture
    def damage(self, tmp_path): return lambda digest: ...  # change one byte of a stored object behind the store's back
"""

import multiprocessing
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from tidemill.core.clock import from_micros, wait_until, wall
from tidemill.core.digest import digest_bytes
from tidemill.core.errors import Corrupt, Invalid, NotFound
from tidemill.core.ids import Digest
from tidemill.store.objects import ObjectStore
from tidemill.store.online import KEY_BYTES, OnlineStore
from tidemill.store.table import open_online, open_store
from tidemill.store.transfer import transfer
from tidemill.store.trees import Tree, checkout, put_tree, read_tree
from tidemill.store.upkeep import gc, verify

ABSENT = Digest("0" * 64)
PROCESSES = 3
ROUNDS = 40


def _noise(size: int) -> bytes:
    """Return bytes that do not compress, the same ones each time."""
    return random.Random(size).randbytes(size)


class StoreConformance:
    """The law of `ObjectStore`. Give it the fixtures store_url and damage."""

    @pytest.fixture
    def store_url(self) -> str:
        pytest.fail("a conformance test gives the fixture store_url")

    @pytest.fixture
    def damage(self) -> Callable[[Digest], None]:
        pytest.fail("a conformance test gives the fixture damage")

    @pytest.fixture
    def store(self, store_url: str, tmp_path: Path) -> ObjectStore:
        return open_store(store_url, cache=tmp_path / "cache")

    def test_what_was_put_is_got(self, store: ObjectStore) -> None:
        for data in (b"", b"a", b"tide" * 100_000):
            digest = store.put(data)
            assert digest == digest_bytes(data)
            assert store.get(digest) == data
            assert store.size(digest) == len(data)
            assert store.has(digest)
            assert store.local_path(digest).read_bytes() == data
            with store.open(digest) as stream:
                assert stream.read() == data

    def test_an_adopted_file_is_taken_away_and_kept(self, store: ObjectStore, tmp_path: Path) -> None:
        for data in (b"", b"tide", b"mill" * 3_000_000):
            for _ in range(2):  # the second time it is there already
                path = tmp_path / "made"
                path.write_bytes(data)
                store.adopt(path, digest_bytes(data))
                assert not path.exists()
                assert store.get(digest_bytes(data)) == data

    def test_a_file_is_one_object_whatever_way_it_came(self, store: ObjectStore, tmp_path: Path) -> None:
        data = bytes(range(256)) * 70_000  # above the size from which a bucket takes parts
        path = tmp_path / "big.bin"
        path.write_bytes(data)
        digest = store.put_file(path)
        assert digest == digest_bytes(data) == store.put_file(path) == store.put(data)
        assert list(store.digests()) == [digest]
        with store.open(digest) as stream:
            assert stream.read(1000) == data[:1000]
            assert stream.read() == data[1000:]

    def test_put_twice_is_one_object(self, store: ObjectStore) -> None:
        assert store.put(b"same") == store.put(b"same")
        assert len(list(store.stored())) == 1

    def test_an_absent_object_is_not_found(self, store: ObjectStore) -> None:
        assert not store.has(ABSENT)
        for read in (store.get, store.open, store.size, store.local_path):
            with pytest.raises(NotFound, match="is not in"):
                read(ABSENT)
        assert store.delete(ABSENT) is False

    def test_a_name_that_is_no_digest_is_refused(self, store: ObjectStore) -> None:
        for name in ("", "../../etc/passwd", "A" * 64, "0" * 63):
            with pytest.raises(Invalid, match="is not a digest"):
                store.get(Digest(name))
            with pytest.raises(Invalid, match="is not a digest"):
                store.has(Digest(name))

    def test_a_missing_file_is_not_found(self, store: ObjectStore, tmp_path: Path) -> None:
        with pytest.raises(NotFound, match="does not exist"):
            store.put_file(tmp_path / "nothing")
        assert list(store.digests()) == []

    def test_delete_removes(self, store: ObjectStore) -> None:
        digest = store.put(b"gone")
        store.local_path(digest)
        assert store.delete(digest, stored_before=from_micros(0)) is False
        assert store.delete(digest) is True
        assert not store.has(digest)
        with pytest.raises(NotFound, match=digest):
            store.local_path(digest)

    def test_stored_lists_sizes_and_real_times(self, store: ObjectStore) -> None:
        before = wall() - 2
        digest = store.put(b"12345")
        (entry,) = store.stored()
        assert (entry.digest, entry.size_bytes) == (digest, 5)
        assert before <= entry.stored_at.timestamp() <= wall() + 2

    def test_a_flipped_byte_is_corrupt_and_named(self, store: ObjectStore, damage: Callable[[Digest], None]) -> None:
        good, bad = store.put(b"good bytes"), store.put(b"bad bytes" * 10)
        damage(bad)
        with pytest.raises(Corrupt, match=bad):
            store.get(bad)
        with pytest.raises(Corrupt, match=bad), store.open(bad) as stream:
            stream.read()
        report = verify(store)
        assert report.corrupt == (bad,)
        assert report.objects == 2
        assert not report.ok
        assert store.get(good) == b"good bytes"

    def test_many_threads_put_the_same_and_different_bytes(self, store: ObjectStore) -> None:
        blobs = [f"blob {number % 10}".encode() * 1000 for number in range(60)]
        with ThreadPoolExecutor(8) as threads:
            digests = list(threads.map(store.put, blobs))
        assert digests == [digest_bytes(blob) for blob in blobs]
        assert set(store.digests()) == set(digests)
        assert verify(store).ok

    def test_gc_spares_what_is_live_and_what_is_young(self, store: ObjectStore) -> None:
        tree = put_tree(store, {"a.txt": b"in the tree", "deep/b.txt": b"too"})
        loose, dead = store.put(b"live"), store.put(b"dead")
        young = gc(store, [tree, loose], older_than=timedelta(hours=1))
        assert (young.removed, young.young, young.live) == (0, 1, 4)
        assert store.has(dead)
        assert wait_until(lambda: gc(store, [tree, loose], older_than=timedelta(0)).removed == 1, timeout_s=5)
        assert not store.has(dead)
        assert len(list(store.digests())) == 4
        with pytest.raises(Invalid, match="must not be negative"):
            gc(store, [], older_than=timedelta(seconds=-1))

    def test_gc_names_what_is_referred_to_and_missing(self, store: ObjectStore) -> None:
        report = gc(store, [ABSENT], older_than=timedelta(hours=1))
        assert report.missing == (ABSENT,)

    def test_a_batch_is_there_once_its_block_has_ended(self, store: ObjectStore, store_url: str, tmp_path: Path) -> None:
        (tmp_path / "large").write_bytes(_noise(3 << 20))
        blobs = [b"%d in a batch" % number for number in range(100)]
        loose = store.put(blobs[7])
        with store.batch() as batch:
            digests = [batch.put(blob) for blob in [*blobs, blobs[3], b""]]
            large = batch.put_file(tmp_path / "large")
        assert digests == [digest_bytes(blob) for blob in [*blobs, blobs[3], b""]]
        assert digests[7] == loose
        other = open_store(store_url, cache=tmp_path / "another cache")
        for seen in (store, other):
            assert dict(seen.get_many([*digests, large])) == {digest_bytes(b): b for b in [*blobs, b"", _noise(3 << 20)]}
            assert seen.get(digests[0]) == b"0 in a batch"
            assert (seen.size(digests[0]), seen.has(digests[1]), seen.has(ABSENT)) == (12, True, False)
            assert seen.local_path(digests[2]).read_bytes() == b"2 in a batch"
            assert seen.read_at(digests[4], 2, 2) == b"in"
            assert seen.read_at(large, 1 << 20, 10) == _noise(3 << 20)[1 << 20 : (1 << 20) + 10]
            assert verify(seen).ok
        with store.batch() as batch:
            assert [batch.put(blob) for blob in blobs] == digests[: len(blobs)]
            assert batch.put_file(tmp_path / "large") == large
        assert len({entry.digest for entry in store.stored()}) == len(set(digests)) + 1

    def test_a_batch_that_is_left_by_an_error_leaves_nothing(self, store: ObjectStore) -> None:
        batch = store.batch()
        batch.__enter__()
        digest = batch.put(b"never")
        batch.__exit__(KeyError, KeyError(), None)
        assert not store.has(digest)
        assert list(store.stored()) == []

    def test_a_file_that_resembles_an_older_one_costs_what_differs(self, store: ObjectStore, store_url: str, tmp_path: Path) -> None:
        data, versions = bytearray(_noise(1 << 20)), []
        digests: list[Digest] = []
        for number in range(10):  # more than may stand on one another
            data[number * 90_000 : number * 90_000 + 5] = b"%05d" % number
            data[500_000:500_000] = b"put in between %d" % number
            versions.append(bytes(data))
            path = tmp_path / f"{number}"
            path.write_bytes(data)
            with store.batch() as batch:
                digests.append(batch.put_file(path, like=digests[-1] if digests else None))
            assert number == 0 or batch.new_bytes < len(data) / 20
        seen = open_store(store_url, cache=tmp_path / "another cache")
        for digest, version in zip(digests, versions, strict=True):
            assert seen.size(digest) == len(version)
            assert seen.get(digest) == version
            assert seen.read_at(digest, 499_990, 40) == version[499_990:500_030]
            with seen.open(digest) as stream:
                assert stream.read(100) == version[:100]
            assert seen.local_path(digest).read_bytes() == version
        assert store.made_of([digests[-1]]) >= {digests[0]}

    def test_a_transfer_sends_what_is_missing_and_what_that_is_made_of(self, store: ObjectStore, tmp_path: Path) -> None:
        here, back = (open_store(f"file:{tmp_path}/{name}", cache=tmp_path / f"cache of {name}") for name in ("here", "back"))
        datas = [_noise(2 << 20), _noise(2 << 20)[:-10] + b"other end!"]
        digests: list[Digest] = []
        for data in datas:
            (tmp_path / "file").write_bytes(data)
            with here.batch() as batch:
                digests.append(batch.put_file(tmp_path / "file", like=digests[0] if digests else None))
        with here.batch() as batch:
            digests += [batch.put(b"%d small" % number) for number in range(30)]
        digests.append(here.put(b"alone"))
        seen: list[tuple[int, int]] = []
        first = transfer(here, store, digests[1:], watch=lambda done, of: seen.append((done, of)))
        assert (first.sent, first.there) == (33, 0)
        assert seen[-1] == (33, 33)
        assert transfer(here, store, digests).sent == 0
        assert transfer(store, back, digests).sent == 33
        for end in (store, back):
            assert verify(end).ok
            assert [end.get(digest) for digest in digests[:2]] == datas
            assert end.get(digests[-1]) == b"alone"
        with pytest.raises(NotFound, match=ABSENT):
            transfer(here, store, [ABSENT])

    def test_gc_keeps_what_others_are_made_of(self, store: ObjectStore, tmp_path: Path) -> None:
        first, second = _noise(2 << 20), _noise(2 << 20)[:-10] + b"other end!"
        digests: list[Digest] = []
        for number, data in enumerate((first, second)):
            (tmp_path / f"{number}").write_bytes(data)
            with store.batch() as batch:
                digests.append(batch.put_file(tmp_path / f"{number}", like=digests[0] if digests else None))
        with store.batch() as batch:
            few = [batch.put(b"%d small" % number * 100) for number in range(20)]
        assert wait_until(lambda: gc(store, [digests[1], *few[:5]], older_than=timedelta(0)).young == 0, timeout_s=5)
        assert store.get(digests[1]) == second
        assert [store.has(digest) for digest in few] == [True] * 5 + [False] * 15
        assert [store.get(digest) for digest in few[:5]] == [b"%d small" % number * 100 for number in range(5)]
        assert verify(store).ok
        assert store.delete(few[0])
        assert not store.has(few[0])
        assert store.get(few[1]) == b"1 small" * 100

    def test_trees_come_back_as_they_went(self, store: ObjectStore, tmp_path: Path) -> None:
        source = tmp_path / "source.bin"
        source.write_bytes(b"from a file")
        digest = put_tree(store, {"b/file.bin": source, "a.txt": b"bytes"})
        tree = read_tree(store, digest)
        assert [entry.path for entry in tree.entries] == ["a.txt", "b/file.bin"]
        assert digest == put_tree(store, {"a.txt": b"bytes", "b/file.bin": b"from a file"})
        folder = checkout(store, digest, tmp_path / "out" / "there")
        assert (folder / "a.txt").read_bytes() == b"bytes"
        assert (folder / "b/file.bin").read_bytes() == b"from a file"
        (folder / "a.txt").write_bytes(b"changed by hand")
        (folder / "mine.txt").write_bytes(b"mine")
        checkout(store, digest, folder)
        assert (folder / "a.txt").read_bytes() == b"bytes"
        assert sorted(path.name for path in folder.iterdir()) == ["a.txt", "b", "mine.txt"]
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["there"]

    def test_an_object_that_is_no_tree_is_refused(self, store: ObjectStore) -> None:
        with pytest.raises(Invalid, match=r"was not understood|is not valid JSON"):
            read_tree(store, store.put(b"no tree"))
        assert read_tree(store, put_tree(store, {})) == Tree(entries=())


def add_in_process(url: str, namespace: str, rounds: int) -> None:
    """Add one to two counters, rounds times. Runs in a process of its own."""
    store = open_online(url)
    for _ in range(rounds):
        store.update_many(namespace, [b"left", b"right"], _plus_one)
    store.close()


def _plus_one(values: list[bytes | None]) -> list[bytes | None]:
    return [str(int(value or b"0") + 1).encode() for value in values]


class OnlineConformance:
    """The law of `OnlineStore`. Give it the fixture online_url, of a store in which nothing lies under the namespaces used here."""

    @pytest.fixture
    def online_url(self) -> str:
        pytest.fail("a conformance test gives the fixture online_url")

    @pytest.fixture
    def online(self, online_url: str) -> Iterator[OnlineStore]:
        store = open_online(online_url)
        yield store
        for namespace in ("views", "other", "view"):
            store.clear(namespace)
        store.close()

    def test_pairs_come_back_in_the_order_asked(self, online: OnlineStore) -> None:
        online.put_many("views", [(b"a", b"1"), (b"b", b""), (b"\x00\xff*?[", b"\x00")])
        assert online.get_many("views", [b"b", b"none", b"a", b"\x00\xff*?[", b"a"]) == [b"", None, b"1", b"\x00", b"1"]
        assert online.get_many("views", []) == []
        online.put_many("views", [])

    def test_several_namespaces_answer_in_one_trip(self, online: OnlineStore) -> None:
        online.put_many("views", [(b"a", b"1"), (b"b", b"2")])
        online.put_many("other", [(b"a", b"3")])
        asked: list[tuple[str, list[bytes]]] = [("other", [b"a"]), ("views", []), ("views", [b"b", b"none", b"a"])]
        assert online.get_all(asked) == [[b"3"], [], [b"2", None, b"1"]]
        assert online.get_all([("views", [])]) == [[]]
        assert online.get_all([]) == []
        with pytest.raises(Invalid, match="bytes; expected 1 to"):
            online.get_all([("views", [b"a"]), ("other", [b""])])

    def test_the_last_write_wins(self, online: OnlineStore) -> None:
        online.put_many("views", [(b"k", b"1"), (b"k", b"2")])
        assert online.get_many("views", [b"k"]) == [b"2"]
        online.put_many("views", [(b"k", b"3")])
        assert online.get_many("views", [b"k"]) == [b"3"]

    def test_namespaces_are_apart(self, online: OnlineStore) -> None:
        online.put_many("view", [(b"sk", b"short")])
        online.put_many("views", [(b"k", b"long")])
        assert online.get_many("views", [b"k", b"sk"]) == [b"long", None]
        online.clear("view")
        assert online.get_many("view", [b"sk"]) == [None]
        assert online.get_many("views", [b"k"]) == [b"long"]

    def test_what_was_written_outlives_the_store(self, online: OnlineStore, online_url: str) -> None:
        online.put_many("views", [(b"k", b"stays")])
        again = open_online(online_url)
        assert again.get_many("views", [b"k"]) == [b"stays"]
        again.close()

    def test_update_reads_changes_and_deletes(self, online: OnlineStore) -> None:
        online.put_many("views", [(b"a", b"1"), (b"b", b"2")])
        seen: list[list[bytes | None]] = []

        def change(values: list[bytes | None]) -> list[bytes | None]:
            seen.append(values)
            return [None, b"two", b"three"]

        online.update_many("views", [b"a", b"b", b"c"], change)
        assert seen[-1] == [b"1", b"2", None]
        assert online.get_many("views", [b"a", b"b", b"c"]) == [None, b"two", b"three"]
        online.update_many("views", [b"absent"], lambda values: values)
        online.update_many("views", [], lambda values: values)
        assert online.get_many("views", [b"absent"]) == [None]

    def test_a_change_that_fails_writes_nothing(self, online: OnlineStore) -> None:
        def fail(values: list[bytes | None]) -> list[bytes | None]:
            raise KeyError("user code")

        with pytest.raises(KeyError, match="user code"):
            online.update_many("views", [b"a"], fail)
        with pytest.raises(Invalid, match="returned 0 values for 1 keys"):
            online.update_many("views", [b"a"], lambda values: [])
        assert online.get_many("views", [b"a"]) == [None]

    def test_scan_yields_a_prefix_once_each(self, online: OnlineStore) -> None:
        pairs = [(f"p*{number:05}".encode(), str(number).encode()) for number in range(2500)]
        online.put_many("views", [*pairs, (b"q", b"q"), (b"pp", b"p")])
        online.put_many("other", [(b"p*x", b"other")])
        assert sorted(online.scan("views", b"p*")) == pairs
        assert len(list(online.scan("views"))) == 2502
        assert list(online.scan("views", b"zz")) == []

    def test_names_out_of_bounds_are_refused_before_anything_is_written(self, online: OnlineStore) -> None:
        online.put_many("views", [(b"k" * KEY_BYTES, b"longest")])
        assert online.get_many("views", [b"k" * KEY_BYTES]) == [b"longest"]
        for key in (b"", b"k" * (KEY_BYTES + 1)):
            with pytest.raises(Invalid, match="bytes; expected 1 to"):
                online.put_many("views", [(b"first", b"1"), (key, b"2")])
            with pytest.raises(Invalid, match="bytes; expected 1 to"):
                online.get_many("views", [key])
        for namespace in ("", "n" * 129):
            with pytest.raises(Invalid, match="bytes; expected 1 to"):
                online.get_many(namespace, [b"k"])
        with pytest.raises(Invalid, match="stands twice"):
            online.update_many("views", [b"a", b"a"], lambda values: values)
        assert online.get_many("views", [b"first"]) == [None]

    def test_values_may_be_large(self, online: OnlineStore) -> None:
        value = bytes(range(256)) * 8192
        online.put_many("views", [(b"large", value)])
        assert online.get_many("views", [b"large"]) == [value]

    def test_threads_lose_no_update(self, online: OnlineStore) -> None:
        def add(_: int) -> None:
            for _ in range(ROUNDS):
                online.update_many("views", [b"left", b"right"], _plus_one)

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(add, range(4)))
        assert online.get_many("views", [b"left", b"right"]) == [str(4 * ROUNDS).encode()] * 2

    @pytest.mark.slow
    def test_processes_lose_no_update(self, online: OnlineStore, online_url: str) -> None:
        context = multiprocessing.get_context("spawn")
        workers = [context.Process(target=add_in_process, args=(online_url, "views", ROUNDS)) for _ in range(PROCESSES)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        assert [worker.exitcode for worker in workers] == [0] * PROCESSES
        assert online.get_many("views", [b"left", b"right"]) == [str(PROCESSES * ROUNDS).encode()] * 2

    @pytest.mark.slow
    def test_a_forked_child_may_use_the_store(self, online: OnlineStore, online_url: str) -> None:
        online.put_many("views", [(b"k", b"parent")])
        child = multiprocessing.get_context("fork").Process(target=_in_child, args=(online,))
        child.start()
        child.join(30)
        assert child.exitcode == 0
        assert online.get_many("views", [b"k"]) == [b"child"]


def _in_child(online: OnlineStore) -> None:
    if online.get_many("views", [b"k"]) != [b"parent"]:
        raise SystemExit(3)
    online.put_many("views", [(b"k", b"child")])
