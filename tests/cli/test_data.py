"""`tidemill data`: files in, out, elsewhere and back."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import world
from tests.cli.conftest import Said

pytestmark = pytest.mark.slow

Say = Callable[..., Said]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    world.init(tmp_path / "home").close()
    return tmp_path / "home"


def test_files_go_in_change_and_come_out(say: Say, home: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / "in" / f"{number}.bin").write_bytes(b"%d" % number)
    at = ("--home", home)
    assert "images@1  3 files" in say("data", "add", "images", tmp_path / "in", *at).out
    assert say("data", "status", *at).out.endswith("3 files as they were\n")
    (tmp_path / "in" / "0.bin").write_bytes(b"other")
    told = say("data", "status", "images", "--check", *at)
    assert (told.code, told.err) == (1, "")
    assert "1 changed, 2 as they were" in told.out
    assert "changed  0.bin" in told.out
    assert say("data", "add", "images", tmp_path / "in", "--json", *at).json()["version"]["new_bytes"] == 5
    assert "3 of 3 files written" in say("data", "get", "images@1", tmp_path / "out", *at).out
    assert (tmp_path / "out" / "0.bin").read_bytes() == b"0"
    assert "gold        2" in say("data", "tag", "images@2", "gold", *at).out
    assert "gold" in say("data", "log", "images", *at).out
    refused = say("data", "rm", "images@2", *at)
    assert (refused.code, "is used by tag gold" in refused.err) == (1, True)
    assert say("data", "tag", "images", "gold", "--remove", *at).out == "none\n"
    assert say("data", "rm", "images@2", *at).out == "images@2 is in the trash\n"
    assert "images" in say("data", "list", "--deleted", *at).out
    assert say("data", "restore", "images@2", *at).out == "images@2 is back\n"
    assert say("data", "show", "nothing", *at).err.startswith("tidemill: there is no dataset 'nothing' (there are: images)")
    assert "nothing outside is known of dataset 'nothing'" in say("data", "status", "nothing", *at).err


def test_datasets_go_elsewhere_and_are_mended_from_there(say: Say, home: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,a\n2,b\n")
    say("data", "add", "letters", tmp_path / "a.csv", "--home", home)
    assert "letters@1 new; 2 objects sent" in say("data", "push", "letters", "--to", tmp_path / "remote", "--home", home).out
    world.init(tmp_path / "other").close()
    assert "letters@1 new" in say("data", "clone", tmp_path / "remote", "--home", tmp_path / "other").out
    assert "no version new" in say("data", "pull", "letters", "--from", tmp_path / "remote", "--home", tmp_path / "other").out
    assert "2 rows" in say("data", "show", "letters", "--home", tmp_path / "other").out
    (stored,) = (path for path in (tmp_path / "other").rglob("objects/??/*") if path.read_bytes().startswith(b"x,y"))
    stored.chmod(0o644)
    stored.write_bytes(b"x,z\n1,a\n2,b\n")
    told = say("data", "verify", "--home", tmp_path / "other")
    assert (told.code, told.out.splitlines()[0]) == (1, "broken: letters@1 a.csv")
    assert say("data", "verify", "--repair", tmp_path / "remote", "--home", tmp_path / "other").out.startswith(
        "broken: letters@1 a.csv (mended)"
    )
    assert stored.read_text() == "x,y\n1,a\n2,b\n"
