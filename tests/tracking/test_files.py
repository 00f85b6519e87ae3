"""Files: one table of whole paths, listed as folders."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from tests import world
from tidemill.catalog.lineage import walk
from tidemill.core.digest import digest_bytes
from tidemill.govern.audit import list_events
from tidemill.govern.roles import ActionRefused
from tidemill.govern.workspace import Workspace
from tidemill.store.trees import read_tree
from tidemill.tracking.files import (
    FILES,
    FileInTheWay,
    FileNotKept,
    FolderEntry,
    PathRefused,
    check_path,
    delete_files,
    files_below,
    find_file,
    keep_file,
    keep_tree,
    list_folder,
    owner_of,
    tree_of,
)

# Letters that sort differently by language and by bytes, and both neighbours of the slash.
PARTS = st.text("aB.-0é_%", min_size=1, max_size=3).filter(lambda part: part not in (".", ".."))
PATHS = st.lists(PARTS, min_size=1, max_size=4).map("/".join)


def kept(ws: Workspace, path: str, data: bytes = b"data") -> None:
    keep_file(ws, path, ws.objects.put(data), len(data))


def test_a_file_is_found_replaced_and_deleted(any_ws: Workspace) -> None:
    kept(any_ws, "1/r/artifacts/model/weights.bin", b"one")
    kept(any_ws, "1/r/artifacts/model/weights.bin", b"other")
    found = find_file(any_ws, "1/r/artifacts/model/weights.bin")
    assert (found.digest, found.size_bytes, found.at) == (digest_bytes(b"other"), 5, world.START)
    assert delete_files(any_ws, "1/r/artifacts/model") == 1
    assert delete_files(any_ws, "1/r/artifacts/model") == 0
    with pytest.raises(FileNotKept, match=r"there is no file '1/r/artifacts/model/weights.bin'"):
        find_file(any_ws, "1/r/artifacts/model/weights.bin")
    assert [event.body for event in list_events(any_ws, kinds=["files.deleted"])] == [{"path": "1/r/artifacts/model", "files": 1}]


def test_a_file_has_an_edge_from_what_left_it(ws: Workspace) -> None:
    kept(ws, "1/r/artifacts/a", b"a")
    kept(ws, "1/models/m-1/artifacts/b", b"b")
    kept(ws, "loose/c", b"c")
    with ws.catalog.reading() as tx:
        nodes = [walk(tx, ws.project, f"artifact:{digest_bytes(data)}") for data in (b"a", b"b", b"c")]
    assert [[edge.source for edge in edges] for edges in nodes] == [["run:r"], ["logged-model:m-1"], []]


@pytest.mark.parametrize(
    ("path", "owner"),
    [
        ("1/r/artifacts/a", "run:r"),
        ("1/models/m-1/artifacts/a", "logged-model:m-1"),
        ("1/traces/t/artifacts/a", None),
        ("1/r/artifacts", None),
        ("a", None),
    ],
)
def test_the_owner_of_a_path(path: str, owner: str | None) -> None:
    assert owner_of(path) == owner


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(paths=st.lists(PATHS, max_size=12, unique=True), seen=st.one_of(st.just(""), PATHS))
def test_folders_list_what_the_paths_say(any_ws: Workspace, paths: list[str], seen: str) -> None:
    with any_ws.catalog.transaction() as tx:
        tx.execute(delete(FILES))
    there: list[str] = []
    for path in paths:
        in_the_way = any(path.startswith(other + "/") or other.startswith(path + "/") for other in there)
        if in_the_way:
            with pytest.raises(FileInTheWay, match="choose another name"):
                kept(any_ws, path)
        else:
            kept(any_ws, path)
            there.append(path)
    prefix = seen + "/" if seen else ""
    below = [path for path in there if path.startswith(prefix)]
    names = {(path[len(prefix) :].partition("/")[0], "/" in path[len(prefix) :]) for path in below}
    expected = [FolderEntry(name=name, is_dir=is_dir, size_bytes=None if is_dir else 4) for name, is_dir in names]
    assert sorted(list_folder(any_ws, seen), key=lambda e: e.name) == sorted(expected, key=lambda e: e.name)
    if seen:
        assert [file.path for file in files_below(any_ws, seen)] == sorted(below + [seen] * (seen in there), key=str.encode)
        assert delete_files(any_ws, seen) == len(below) + (seen in there)
        assert files_below(any_ws, seen) == []


@pytest.mark.slow
def test_a_full_folder_is_stepped_over(ws: Workspace) -> None:
    for number in range(600):
        kept(ws, f"1/r/artifacts/b/{number:04}")
    for name in ("a", "c", "b.txt", "b-"):
        kept(ws, f"1/r/artifacts/{name}")
    assert [entry.name for entry in list_folder(ws, "1/r/artifacts")] == ["a", "b-", "b.txt", "b", "c"]
    assert len(list_folder(ws, "1/r/artifacts/b")) == 600


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("", "absolute"), ("/etc/passwd", "absolute"), ("a\\b", "backslashes"), ("a/../b", "'..'"), ("..", "'..'"), ("a//b", "empty"),
        ("./a", "'.'"), ("a\0b", "NUL"), ("é" * 1025, "2048 bytes"), ("a\ud800", "half a character"),
    ],
)  # fmt: skip
def test_paths_that_lead_elsewhere_are_refused(path: str, problem: str) -> None:
    with pytest.raises(PathRefused, match=f"{problem}.*; expected a relative path with forward slashes"):
        check_path(path)


def test_the_longest_path_is_kept(any_ws: Workspace) -> None:
    path = "é" * 1024
    kept(any_ws, path)
    assert [file.path for file in files_below(any_ws, path)] == [path]


def test_files_become_a_tree_and_come_out_of_one(ws: Workspace) -> None:
    kept(ws, "1/r/artifacts/model/b/two", b"two")
    kept(ws, "1/r/artifacts/model/one", b"one")
    kept(ws, "1/r/artifacts/other", b"not this")
    tree = read_tree(ws.objects, tree_of(ws, "1/r/artifacts/model"))
    assert [(entry.path, entry.size_bytes) for entry in tree.entries] == [("b/two", 3), ("one", 3)]
    keep_tree(ws, "1/s/artifacts/copy", tree.entries)
    assert tree_of(ws, "1/s/artifacts/copy") == tree_of(ws, "1/r/artifacts/model")
    assert [entry.path for entry in read_tree(ws.objects, tree_of(ws, "1/r/artifacts/other")).entries] == ["other"]
    with pytest.raises(FileNotKept, match="there is no file 'nothing'"):
        tree_of(ws, "nothing")


def test_files_of_another_project_are_not_seen(ws: Workspace) -> None:
    kept(ws, "1/r/artifacts/a")
    other = ws.acting(ws.actor, "elsewhere")
    assert list_folder(other, "") == []
    assert delete_files(other, "1") == 0
    assert len(files_below(ws, "1")) == 1


def test_who_only_reads_keeps_nothing(ws: Workspace) -> None:
    kept(ws, "1/r/artifacts/a")
    reader = world.acting(ws, "eve", "viewer")
    assert find_file(reader, "1/r/artifacts/a").size_bytes == 4
    with pytest.raises(ActionRefused, match=r"tracking\.write"):
        kept(reader, "1/r/artifacts/b")
    with pytest.raises(ActionRefused, match=r"tracking\.write"):
        delete_files(reader, "1/r/artifacts/a")
