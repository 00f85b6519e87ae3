"""Stores are chosen by URL."""

from pathlib import Path

import pytest

from tidemill.core.errors import Invalid
from tidemill.store.table import open_online, open_store


def test_a_relative_folder_lies_under_the_base(tmp_path: Path) -> None:
    digest = open_store("file:objects", cache=tmp_path / "cache", base=tmp_path / "state").put(b"here")
    assert (tmp_path / "state/objects/objects" / digest[:2] / digest[2:]).is_file()
    assert open_store(f"file://{tmp_path}/state/objects", cache=tmp_path / "cache").has(digest)


def test_an_unknown_scheme_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="did you mean 'file'"):
        open_store("fil:objects", cache=tmp_path)
    with pytest.raises(Invalid, match="written SCHEME:PLACE"):
        open_store("objects", cache=tmp_path)
    with pytest.raises(Invalid, match="did you mean 'redis'"):
        open_online("reddis://user:hidden@localhost")


def test_a_password_is_not_repeated() -> None:
    with pytest.raises(Invalid) as caught:
        open_online("mysql://user:hidden@localhost")
    assert "hidden" not in str(caught.value)
