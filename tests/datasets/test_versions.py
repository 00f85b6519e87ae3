"""Datasets: same content, same version; appends share; bad files are one sentence."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import world
from tidemill.catalog.lineage import walk
from tidemill.core.errors import Invalid, NotFound
from tidemill.datasets.versions import DatasetNotFound, add, append, list_datasets, list_versions, open_table, paths, read_version
from tidemill.govern.roles import ActionRefused
from tidemill.govern.workspace import Workspace


def test_the_same_content_is_the_same_version_and_adds_no_bytes(any_ws: Workspace) -> None:
    first = add(any_ws, "flights", world.flights(10))
    objects = len(list(any_ws.objects.stored()))
    again = add(any_ws, "flights", world.flights(10))
    assert (again.version, again.digest) == (1, first.digest)
    assert len(list(any_ws.objects.stored())) == objects
    assert add(any_ws, "flights", world.flights(11)).version == 2


def test_an_append_shares_what_was_there(ws: Workspace) -> None:
    add(ws, "flights", world.flights(1000))
    before = set(paths(ws, "flights"))
    version = append(ws, "flights", world.flights(5, late=True))
    assert (version.version, version.rows) == (2, 1005)
    assert before < set(paths(ws, "flights@2"))
    assert open_table(ws, "flights@1").num_rows == 1000
    assert open_table(ws, "flights").slice(1000).column("late").to_pylist() == [True] * 5


def test_of_appends_at_once_none_is_lost(any_ws: Workspace) -> None:
    append(any_ws, "flights", world.flights(1))
    with ThreadPoolExecutor(4) as several:
        made = list(several.map(lambda _: append(any_ws, "flights", world.flights(2)).version, range(8)))
    assert sorted(made) == list(range(2, 10))
    assert (read_version(any_ws, "flights").rows, open_table(any_ws, "flights").num_rows) == (17, 17)


def test_an_append_of_other_columns_is_refused(ws: Workspace) -> None:
    add(ws, "flights", world.flights())
    with pytest.raises(Invalid, match="other columns than version 1: missing carrier, missing late, unknown x"):
        append(ws, "flights", pa.table({"id": [1], "x": [2]}))


def test_versions_are_found_by_number_by_default_and_as_of(ws: Workspace) -> None:
    add(ws, "flights", world.flights(5))
    then = ws.clock.now()
    world.tick(ws, days=1)
    add(ws, "flights", world.flights(6))
    assert read_version(ws, "flights").rows == 6
    assert read_version(ws, "flights@1").rows == 5
    assert read_version(ws, "flights", at=then).rows == 5
    assert [version.version for version in list_versions(ws, "flights")] == [2, 1]
    assert [dataset.name for dataset in list_datasets(ws)] == ["flights"]
    with pytest.raises(DatasetNotFound, match=r"no dataset 'flihgts' \(there are: flights\)"):
        read_version(ws, "flihgts")
    with pytest.raises(Invalid, match="expected NAME or NAME@VERSION"):
        read_version(ws, "flights@newest")


def test_files_are_read_by_their_kind(ws: Workspace, tmp_path: Path) -> None:
    pq.write_table(world.flights(3), tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_text("x,y\n1,a\n2,b\n")
    assert add(ws, "a", tmp_path / "a.parquet").rows == 3
    assert open_table(ws, "a").equals(world.flights(3))
    assert add(ws, "b", [tmp_path / "b.csv"]).columns == {"x": "int64", "y": "string"}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("broken.parquet", b"PAR1 no", "could not be read as parquet"),
        ("empty.csv", b"", "could not be read as csv"),
        ("notes.docx", b"x", "of a kind that is not understood; expected .parquet, .csv, .tsv"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence_and_leaves_nothing(
    ws: Workspace, tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Invalid, match=said):
        add(ws, "broken", tmp_path / name, as_table=True)
    assert list_datasets(ws) == []
    with pytest.raises(NotFound, match="there is no file"):
        add(ws, "broken", tmp_path / "gone.csv")


def test_files_of_different_shapes_do_not_make_one_dataset(ws: Workspace, tmp_path: Path) -> None:
    pq.write_table(world.flights(3), tmp_path / "a.parquet")
    pq.write_table(pa.table({"z": [1]}), tmp_path / "b.parquet")
    with pytest.raises(Invalid, match=r"b\.parquet has other columns than .*a\.parquet"):
        add(ws, "mixed", [tmp_path / "a.parquet", tmp_path / "b.parquet"])


def test_a_viewer_reads_and_does_not_write(ws: Workspace) -> None:
    add(ws, "flights", world.flights())
    viewer = world.acting(ws, "vic", "viewer")
    assert read_version(viewer, "flights").rows == 5
    with pytest.raises(ActionRefused, match=r"datasets\.write"):
        add(viewer, "flights", world.flights(6))


def test_a_version_knows_the_one_before_it(ws: Workspace) -> None:
    add(ws, "flights", world.flights(1))
    append(ws, "flights", world.flights(1))
    with ws.catalog.reading() as tx:
        assert [edge.source for edge in walk(tx, ws.project, "dataset:flights@2")] == ["dataset:flights@1"]
