"""Datasets between workspaces: only what is missing travels, and what is broken is mended from where it is whole."""

import multiprocessing
import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from tests import world
from tidemill.automate.upkeep import sweep_objects
from tidemill.core.clock import ManualClock
from tidemill.core.errors import NotFound
from tidemill.datasets.checkout import check_out
from tidemill.datasets.remotes import Diverged, pull, push, verify
from tidemill.datasets.trash import delete_versions, purge
from tidemill.datasets.versions import add, list_versions, open_table, read_version
from tidemill.govern.workspace import Workspace
from tidemill.store.trees import read_tree

Worlds = Callable[[str], Workspace]


@pytest.fixture
def worlds(tmp_path: Path, request: pytest.FixtureRequest) -> Worlds:
    """Return workspaces by name."""
    made: dict[str, Workspace] = {}

    def of(name: str) -> Workspace:
        if name not in made:
            made[name] = started(tmp_path / name)
            request.addfinalizer(made[name].close)
        return made[name]

    return of


def started(home: Path) -> Workspace:
    made = world.init(home)
    made.clock = ManualClock(world.START)
    return made


def fill(folder: Path, *, seed: int, count: int = 30) -> Path:
    folder.mkdir(exist_ok=True)
    draw = random.Random(seed)
    for number in range(count):
        (folder / f"{number}.bin").write_bytes(draw.randbytes(100))
    large = random.Random(7).randbytes(1 << 21)
    (folder / "large.bin").write_bytes(large[: 1 << 20] + b"%d" % seed + large[1 << 20 :])
    return folder


def test_what_is_pushed_is_pulled_elsewhere_and_only_once(worlds: Worlds, tmp_path: Path) -> None:
    here, there, url = worlds("here"), worlds("there"), str(tmp_path / "remote")
    add(here, "images", fill(tmp_path / "in", seed=1))
    first = push(here, ["images"], url)
    assert (first.versions, first.sent) == (("dataset:images@1",), 32)
    add(here, "images", fill(tmp_path / "in", seed=2, count=5))
    second = push(here, ["images"], url)
    assert second.versions == ("dataset:images@2",)
    assert second.sent == 7
    assert second.sent_bytes < 100_000  # of the large file, what differs
    assert push(here, ["images"], url).sent == 0
    pulled = pull(there, [], url)
    assert pulled.versions == ("dataset:images@1", "dataset:images@2")
    assert read_version(there, "images").digest == read_version(here, "images").digest
    check_out(there, "images@2", tmp_path / "out")
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == {p.name: p.read_bytes() for p in (tmp_path / "in").iterdir()}
    assert pull(there, ["images"], url).sent == 0
    with pytest.raises(NotFound, match=r"there is no dataset 'imgs' in .*remote \(there are: images\)"):
        pull(there, ["imgs"], url)


def test_two_who_made_the_same_number_are_told(worlds: Worlds, tmp_path: Path) -> None:
    here, there, url = worlds("here"), worlds("there"), str(tmp_path / "remote")
    add(here, "flights", world.flights(1))
    add(there, "flights", world.flights(2))
    push(here, ["flights"], url)
    with pytest.raises(Diverged, match=r"flights@1 is something else in .*--as OTHER"):
        push(there, ["flights"], url)
    with pytest.raises(Diverged):
        pull(there, ["flights"], url)
    assert pull(there, ["flights"], url, as_name="theirs").versions == ("dataset:theirs@1",)
    assert (open_table(there, "theirs").num_rows, open_table(there, "flights").num_rows) == (1, 2)


def test_what_is_broken_is_named_and_mended_from_a_remote(worlds: Worlds, tmp_path: Path) -> None:
    here, url = worlds("here"), str(tmp_path / "remote")
    for seed in (1, 2):
        add(here, "images", fill(tmp_path / "in", seed=seed))
    push(here, ["images"], url)
    whole = verify(here, ["images"])
    assert (whole.broken, whole.files) == ((), 62)
    objects = tmp_path / "here" / ".tidemill" / "objects"
    loose = here.objects.local_path(read_tree(here.objects, read_version(here, "images@1").digest).entry("large.bin").digest)
    for path in (*objects.rglob("packs/*"), loose):
        path.chmod(0o644)
        data = bytearray(path.read_bytes())
        data[50] ^= 1
        path.write_bytes(data)
    found = verify(here, ["images"])
    assert not found.ok
    assert {"images@1 large.bin", "images@2 large.bin"} < set(found.broken)
    assert len(found.broken) == 3
    assert verify(here, ["images"], repair=url).ok
    assert verify(here, ["images"]).broken == ()


@pytest.mark.slow
def test_versions_survive_whatever_is_done(tmp_path: Path) -> None:
    """Adds, deletions, collections, pushes, pulls and kills in any order leave every version that is left as it was."""
    for seed in range(4):
        _live(tmp_path / f"{seed}", seed)


def _live(home: Path, seed: int) -> None:
    home.mkdir()
    draw, url = random.Random(seed), str(home / "remote")
    ws = started(home / "ws")
    expected: dict[int, dict[str, bytes]] = {}
    for step in range(14):
        what = draw.choice(["add", "add", "add", "delete", "gc", "push", "pull", "kill"])
        folder = home / f"in{step}"
        if what == "add":
            fill(folder, seed=draw.randrange(5), count=draw.randrange(40))
            expected[add(ws, "images", folder).version] = {path.name: path.read_bytes() for path in folder.iterdir()}
        elif what == "kill":
            fill(folder, seed=step + 100)
            child = multiprocessing.get_context("fork").Process(target=_add_in_child, args=(home / "ws", folder))
            child.start()
            child.join(draw.random() * 0.2)
            child.kill()
            child.join()
            for version in list_versions(ws, "images") if expected or _there(ws) else []:
                expected.setdefault(version.version, {path.name: path.read_bytes() for path in folder.iterdir()})
        elif what == "delete" and len(expected) > 1:
            number = draw.choice(sorted(expected))
            delete_versions(ws, f"images@{number}", force=True)
            del expected[number]
        elif what == "gc":
            world.tick(ws, days=1)
            purge(ws, before=ws.clock.now())
            sweep_objects(ws, older_than=timedelta(0))
        elif what == "push" and expected:
            push(ws, ["images"], url)
        elif what == "pull" and (home / "remote" / "refs").exists():
            other = started(home / f"other{step}")
            pull(other, ["images"], url)
            for version in list_versions(other, "images"):
                if version.version in expected:
                    check_out(other, f"images@{version.version}", home / f"pulled{step}-{version.version}")
                    found = {path.name: path.read_bytes() for path in (home / f"pulled{step}-{version.version}").iterdir()}
                    assert found == expected[version.version]
            other.close()
    for number, files in expected.items():
        check_out(ws, f"images@{number}", home / f"out{number}")
        assert {path.name: path.read_bytes() for path in (home / f"out{number}").iterdir()} == files
    assert not expected or verify(ws, ["images"]).ok
    ws.close()


def _there(ws: Workspace) -> bool:
    try:
        return bool(list_versions(ws, "images"))
    except NotFound:
        return False


def _add_in_child(home: Path, folder: Path) -> None:
    add(started(home), "images", folder)
