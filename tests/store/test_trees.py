"""Trees of files."""

import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.core.errors import Conflict, Corrupt, Invalid
from tidemill.core.ids import Digest
from tidemill.store.local import LocalStore
from tidemill.store.trees import Tree, TreeEntry, checkout, put_tree, read_tree

NAMES = st.text(alphabet="abc._-é", min_size=1, max_size=6).filter(lambda name: name not in (".", ".."))
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../up", "a/../../b", "a//b", "./a", "a/", ".", "a\0b"])
def test_a_path_that_escapes_is_refused(path: str) -> None:
    with pytest.raises(Invalid, match="cannot stand in a tree"):
        TreeEntry(path=path, digest=Digest("0" * 64), size_bytes=0)


def test_a_stored_tree_that_escapes_is_refused_when_read(store: LocalStore, tmp_path: Path) -> None:
    digest = store.put(b'{"kind":"tree","entries":[{"path":"../evil","digest":"' + b"0" * 64 + b'","size_bytes":1}]}')
    with pytest.raises(Invalid, match="cannot stand in a tree"):
        checkout(store, digest, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_entries_are_sorted_and_no_file_is_a_folder() -> None:
    one, two = (TreeEntry(path=path, digest=Digest("0" * 64), size_bytes=0) for path in ("a", "b"))
    with pytest.raises(Invalid, match="sorted"):
        Tree(entries=(two, one))
    with pytest.raises(Invalid, match="sorted and each stand once"):
        Tree(entries=(one, one))
    with pytest.raises(Invalid, match="both as a file and as a folder"):
        Tree(entries=(one, TreeEntry(path="a/b", digest=Digest("0" * 64), size_bytes=0)))


@settings(max_examples=25, deadline=None)
@given(files=st.dictionaries(PATHS, st.binary(max_size=20), max_size=5))
def test_any_folder_round_trips(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("trees")
    store = LocalStore(root / "store")
    try:
        digest = put_tree(store, files)
    except Invalid:
        return  # a name that is both file and folder
    assert put_tree(store, dict(reversed(files.items()))) == digest
    folder = checkout(store, digest, root / "out")
    assert {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == files
    assert read_tree(store, digest).size_bytes == sum(map(len, files.values()))


def test_a_corrupt_file_leaves_no_folder(store: LocalStore, tmp_path: Path) -> None:
    digest = put_tree(store, {"a": b"good", "b": b"bad"})
    path = store.local_path(read_tree(store, digest).entry("b").digest)
    path.chmod(0o644)
    path.write_bytes(b"BAD")
    with pytest.raises(Corrupt, match="is corrupt"):
        checkout(store, digest, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


def test_a_file_in_the_way_is_a_conflict(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(Conflict, match="is a file"):
        checkout(store, put_tree(store, {"a": b"a"}), tmp_path / "out")


def test_several_may_check_out_the_same_tree_at_once(store: LocalStore, tmp_path: Path) -> None:
    digest = put_tree(store, {f"f{number}": b"x" * 1000 for number in range(20)})
    threads = [threading.Thread(target=checkout, args=(store, digest, tmp_path / "out")) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list((tmp_path / "out").iterdir())) == 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "store"]


def test_an_entry_that_is_not_there_names_those_that_are(store: LocalStore) -> None:
    tree = read_tree(store, put_tree(store, {"model.onnx": b"m"}))
    with pytest.raises(Invalid, match=r"no file 'model.json' \(it has: model.onnx\)"):
        tree.entry("model.json")
