"""Datasets of files: kept byte for byte, told by their stamps, written out again."""

import os
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import world
from tidemill.catalog.lineage import link
from tidemill.core.errors import Conflict, Invalid, NotFound
from tidemill.datasets.checkout import check_out
from tidemill.datasets.places import list_places, status
from tidemill.datasets.tags import read_tags, remove_tag, tag_version
from tidemill.datasets.trash import DatasetInUse, delete_versions, list_trash, purge, restore_versions
from tidemill.datasets.versions import DatasetNotFound, add, append, list_datasets, list_versions, open_table, paths, read_version
from tidemill.govern.workspace import Workspace


def fill(folder: Path, count: int = 40) -> Path:
    for number in range(count):
        path = folder / f"{number % 3}" / f"{number}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number * 100)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def age(folder: Path) -> None:
    """Let files be older than the time within which a change might not show."""
    for path in folder.rglob("*"):
        if path.is_file():
            told = path.stat()
            os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns - 10**9))


def test_a_folder_comes_back_as_it_was(any_ws: Workspace, tmp_path: Path) -> None:
    source = fill(tmp_path / "images")
    version = add(any_ws, "images", source)
    assert (version.files, version.rows, version.columns, version.new_bytes) == (40, 0, {}, version.size_bytes)
    done = check_out(any_ws, "images@1", tmp_path / "out")
    assert done.written == 40
    assert content(tmp_path / "out") == content(source)
    assert add(any_ws, "images", source).version == 1
    with pytest.raises(Invalid, match=r"images@1 holds 40 files \(\.bin\) and is no table"):
        open_table(any_ws, "images")


def test_what_did_not_change_is_not_read_again(ws: Workspace, tmp_path: Path) -> None:
    source = fill(tmp_path / "images")
    age(source)
    add(ws, "images", source)
    for path in source.rglob("*.bin"):
        path.chmod(0)  # root may read it all the same, so its content is changed behind its stamp, too
    one = source / "1" / "1.bin"
    told = one.stat()
    one.chmod(0o644)
    one.write_bytes(b"X" * told.st_size)
    os.utime(one, ns=(told.st_atime_ns, told.st_mtime_ns))
    assert add(ws, "images", source).version == 1
    one.write_bytes(b"other")
    assert add(ws, "images", source).version == 2
    assert list_versions(ws, "images")[0].new_bytes == 5


def test_status_tells_what_changed_outside(ws: Workspace, tmp_path: Path) -> None:
    source = fill(tmp_path / "images", 5)
    add(ws, "images", source)
    (held,) = list_places(ws.state)
    assert status(held).clean
    (source / "0" / "0.bin").write_bytes(b"changed")
    (source / "1" / "1.bin").unlink()
    (source / "new").write_bytes(b"")
    told = status(held)
    assert (told.changed, told.added, told.gone, told.same) == (("0/0.bin",), ("new",), ("1/1.bin",), 3)


def test_getting_another_version_writes_what_differs_and_never_over_changes(ws: Workspace, tmp_path: Path) -> None:
    source, out = fill(tmp_path / "images"), tmp_path / "out"
    add(ws, "images", source)
    (source / "0" / "0.bin").write_bytes(b"second")
    (source / "1" / "1.bin").unlink()
    add(ws, "images", source)
    assert check_out(ws, "images@1", out).written == 40
    assert check_out(ws, "images@2", out).written == 1
    assert content(out) == content(source)
    (out / "0" / "3.bin").write_bytes(b"by hand")
    with pytest.raises(Conflict, match=r"3\.bin was changed since it was written .* --force"):
        check_out(ws, "images@1", out)
    assert check_out(ws, "images@1", out, force=True).written == 3
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine").write_bytes(b"mine")
    with pytest.raises(Conflict, match="mine is not of this dataset"):
        check_out(ws, "images@1", tmp_path / "other")


def test_text_is_kept_as_it_was_given_and_read_as_a_table(ws: Workspace, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"x,y\r\n1,a\r\n2,b\r\n")
    (tmp_path / "b.csv").write_text("x,y\n1.5,c\n")
    (tmp_path / "c.jsonl").write_text('{"x": 1, "y": "d"}\n')
    version = add(ws, "both", [tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "c.jsonl"])
    assert (version.rows, version.columns) == (4, {"x": "double", "y": "string"})
    assert open_table(ws, "both").to_pydict() == {"x": [1.0, 2.0, 1.5, 1.0], "y": ["a", "b", "c", "d"]}
    for path in paths(ws, "both"):
        path.unlink()  # can be made again
    assert open_table(ws, "both").column("y").to_pylist() == ["a", "b", "c", "d"]
    check_out(ws, "both", tmp_path / "out")
    assert (tmp_path / "out" / "a.csv").read_bytes() == b"x,y\r\n1,a\r\n2,b\r\n"


def test_rows_are_appended_behind_files_that_a_user_gave(ws: Workspace, tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1, 2]}), tmp_path / "z.parquet")
    add(ws, "numbers", tmp_path / "z.parquet")
    for number in range(3, 15):
        append(ws, "numbers", pa.table({"x": [number]}))
    assert open_table(ws, "numbers").column("x").to_pylist() == list(range(1, 15))
    assert len(paths(ws, "numbers")) < 10
    check_out(ws, "numbers", tmp_path / "out")
    assert (tmp_path / "out" / "z.parquet").read_bytes() == (tmp_path / "z.parquet").read_bytes()


def test_the_same_rows_under_another_name_are_the_same_version(ws: Workspace, tmp_path: Path) -> None:
    for name in ("a.parquet", "b.parquet"):
        pq.write_table(world.flights(3), tmp_path / name)
        assert add(ws, "flights", tmp_path / name).version == 1


def test_a_large_table_of_which_little_changed_costs_little(ws: Workspace, tmp_path: Path) -> None:
    draw = random.Random(0)
    lines = [f"{number},{draw.random()},{draw.random()},{draw.randrange(1000)}\n" for number in range(60_000)]
    sizes = []
    for _ in range(3):
        (tmp_path / "numbers.csv").write_text("a,b,c,d\n" + "".join(lines))
        sizes.append(add(ws, "numbers", tmp_path / "numbers.csv").new_bytes)
        for _ in range(600):
            place = draw.randrange(len(lines))
            lines[place] = f"{place},{draw.random()},0.5,7\n"
    assert max(sizes[1:]) < 0.05 * sizes[0]
    check_out(ws, "numbers@3", tmp_path / "out")
    assert (tmp_path / "out" / "numbers.csv").read_bytes() == (tmp_path / "numbers.csv").read_bytes()
    assert open_table(ws, "numbers@2").num_rows == 60_000
    table = pa.table({"x": pa.array([draw.random() for _ in range(200_000)])})
    first = add(ws, "own", table)
    second = add(ws, "own", pa.concat_tables([table, table.slice(0, 1000)]))
    assert second.new_bytes < 0.05 * first.new_bytes
    assert open_table(ws, "own").num_rows == 201_000


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: (folder / "loop").symlink_to(folder / "loop"), "a link that leads nowhere, or in a circle"),
        (lambda folder: (folder / "a.csv").write_bytes(b"x,x\n1,2\n"), "has column x more than once"),
        (lambda folder: (folder / "a.csv").write_bytes(b"x,y\n\xff\xfe,1\n" * 3), "could not be read as csv"),
        (lambda folder: (folder / "a.jsonl").write_bytes(b'{"x": 1}\n{"x":'), "could not be read as jsonl"),
        (lambda folder: (folder / "empty").mkdir(), "holds no file"),
    ],
)
def test_a_folder_that_cannot_be_taken_is_one_sentence(ws: Workspace, tmp_path: Path, make: object, said: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    assert callable(make)
    make(folder)
    with pytest.raises(Invalid, match=said):
        add(ws, "broken", folder)
    assert list_datasets(ws) == []
    with pytest.raises(NotFound, match="there is no file"):
        add(ws, "broken", tmp_path / "*.nothing")


def test_ten_thousand_columns_are_a_table(ws: Workspace, tmp_path: Path) -> None:
    (tmp_path / "wide.csv").write_text(",".join(f"c{n}" for n in range(10_000)) + "\n" + ",".join("1" * 10_000) + "\n")
    assert len(add(ws, "wide", tmp_path / "wide.csv").columns) == 10_000


def test_a_tag_stands_for_a_version_and_is_moved(ws: Workspace) -> None:
    add(ws, "flights", world.flights(1))
    add(ws, "flights", world.flights(2))
    tag_version(ws, "flights@1", "gold")
    then = ws.clock.now()
    world.tick(ws, days=1)
    tag_version(ws, "flights@2", "gold")
    assert read_version(ws, "flights@gold").rows == 2
    assert read_tags(ws, "flights", at=then) == {"gold": 1}
    remove_tag(ws, "flights", "gold")
    with pytest.raises(Invalid, match=r"NAME@TAG \(tags: none\)"):
        read_version(ws, "flights@gold")
    with pytest.raises(NotFound, match="has no tag 'gold'"):
        remove_tag(ws, "flights", "gold")
    with pytest.raises(Invalid, match="reads as a version number"):
        tag_version(ws, "flights", "v3")


def test_deleted_versions_come_back_or_go_for_good(any_ws: Workspace) -> None:
    ws = any_ws
    add(ws, "flights", world.flights(1))
    add(ws, "flights", world.flights(2))
    delete_versions(ws, "flights@2")
    assert read_version(ws, "flights").version == 1
    assert [each.node for each in list_trash(ws)] == ["dataset:flights@2"]
    with pytest.raises(DatasetNotFound):
        read_version(ws, "flights@2")
    assert add(ws, "flights", world.flights(3)).version == 3  # a number is not used again
    restore_versions(ws, "flights@2")
    assert [each.version for each in list_versions(ws, "flights")] == [3, 2, 1]
    delete_versions(ws, "flights")
    assert list_datasets(ws) == []
    world.tick(ws, days=1)
    assert len(purge(ws, before=ws.clock.now())) == 3
    assert list_trash(ws) == []
    with pytest.raises(NotFound, match="in the trash"):
        restore_versions(ws, "flights")


def test_a_version_that_something_was_made_of_is_deleted_only_by_force(ws: Workspace) -> None:
    version = add(ws, "flights", world.flights(1))
    with ws.catalog.transaction() as tx:
        link(tx, ws.project, source=version.node, target="run:1", relation="read", at=ws.clock.now())
    with pytest.raises(DatasetInUse, match=r"is used by run:1; delete it all the same with --force"):
        delete_versions(ws, "flights@1")
    assert delete_versions(ws, "flights@1", force=True)[0].version == 1
