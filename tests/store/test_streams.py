"""Streams: the law on each kind, and what they say when they are not there."""

from pathlib import Path

import pytest

from tests.services import free_port
from tidemill.core.errors import Conflict, Invalid
from tidemill.store.streams import Outcome, StreamUnavailable, split_url
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


@pytest.mark.slow
class TestKafka(StreamConformance):
    """On librdkafka's mock cluster, which knows transactions, but neither keeps the offsets that they commit, nor fences producers."""

    lag_more = 3  # a mark behind each transaction, in each of its partitions

    @pytest.fixture
    def place(self, kafka_url: str) -> str:
        return kafka_url

    @pytest.mark.skip(reason="the mock cluster forgets the offsets that a transaction commits")
    def test_messages_come_and_are_answered_once(self) -> None: ...

    @pytest.mark.skip(reason="the mock cluster forgets the offsets that a transaction commits")
    def test_what_was_not_settled_comes_again(self) -> None: ...

    @pytest.mark.skip(reason="the mock cluster fences no producer")
    def test_two_consumers_of_a_group_answer_each_message_once(self) -> None: ...

    def test_what_comes_again_is_not_answered_again(self, kafka_url: str) -> None:
        source, target = f"{kafka_url}/again-in", f"{kafka_url}/again-out"
        topic = open_topic(source)
        topic.append([("a", b"1"), ("b", b"2")])
        for fresh in (2, 0):
            flow = open_flow(source, target, group="g")
            messages = flow.read(2, wait_s=5)
            while len(messages) < 2:
                messages += flow.read(2, wait_s=5)
            assert flow.settle([Outcome(message=message, key=message.key, data=b"x") for message in messages]) == fresh
            flow.close()
        assert len(open_topic(target).messages()) == 2


def test_every_kind_passes_the_law() -> None:
    assert set(STREAMS) == {"file", "kafka", "redis", "rediss"}


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
