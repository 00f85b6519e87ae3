"""Streams: the law on each kind, and what they say when they are not there."""

from pathlib import Path

import pytest

from tests.services import free_port
from tidemill.core.errors import Conflict, Invalid
from tidemill.store.streams import StreamUnavailable, split_url
from tidemill.store.streams_conformance import StreamConformance
from tidemill.store.table import STREAMS, open_flow, open_topic


class TestLocal(StreamConformance):
    @pytest.fixture
    def place(self, tmp_path: Path) -> str:
        return f"file:{tmp_path}/log"


@pytest.mark.slow
class TestRedis(StreamConformance):
    @pytest.fixture
    def place(self, redis_url: str) -> str:
        return redis_url


def test_every_kind_passes_the_law() -> None:
    assert set(STREAMS) == {"file", "redis", "rediss"}


def test_a_second_consumer_of_a_local_group_waits_outside(tmp_path: Path) -> None:
    flow = open_flow(f"file:{tmp_path}/in", f"file:{tmp_path}/out", group="g")
    with pytest.raises(Conflict, match="another consumer of group 'g' reads"):
        open_flow(f"file:{tmp_path}/in", f"file:{tmp_path}/out", group="g")
    flow.close()
    open_flow(f"file:{tmp_path}/in", f"file:{tmp_path}/out", group="g").close()


def test_a_server_that_is_not_there_is_unavailable() -> None:
    place = f"redis://:secret@127.0.0.1:{free_port()}/0"
    with pytest.raises(StreamUnavailable, match="cannot be used") as told:
        open_flow(f"{place}/in", f"{place}/out", group="g")
    assert "secret" not in str(told.value)


def test_a_folder_that_cannot_be_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StreamUnavailable, match="cannot be used"):
        open_topic(f"file:{tmp_path}/file/in")


@pytest.mark.parametrize("url", ["", "file:", "redis://", "topic", "file:/"])
def test_a_url_without_a_topic_is_refused(url: str) -> None:
    with pytest.raises(Invalid, match="names no topic"):
        split_url(url)
