"""The law of streams as tests: what every `Flow` and `Topic` must pass, ours and other people's.

class TestLocal(StreamConformance):
    @pytest.fixture
    def place(self, tmp_path): return f"file:{tmp_path}/log"
"""

import secrets
from collections.abc import Sequence

import pytest

from tidemill.core.clock import elapsed
from tidemill.core.errors import Conflict, Invalid
from tidemill.store.streams import REFUSED, Flow, Message, Outcome
from tidemill.store.table import open_flow, open_topic

LONGEST_S = 20.0
SHORT_S = 0.1
IDLE_S = 0.05  # the silence after which a consumer counts as dead here


class StreamConformance:
    """The law of `Flow` and `Topic`. Give it the fixture place: where topics of any name may be made."""

    lag_more = 0  # what a system may count as messages that are none

    @pytest.fixture
    def place(self) -> str:
        pytest.fail("a conformance test gives the fixture place")

    @pytest.fixture
    def source(self, place: str) -> str:
        return f"{place}/in-{secrets.token_hex(4)}"

    @pytest.fixture
    def target(self, place: str) -> str:
        return f"{place}/out-{secrets.token_hex(4)}"

    def test_messages_come_and_are_answered_once(self, source: str, target: str) -> None:
        _put(source, "a", "b", "c")
        flow = _open(source, target)
        messages = _read(flow, 3)
        assert sorted((message.key, message.data) for message in messages) == [
            ("a", b"data of a"),
            ("b", b"data of b"),
            ("c", b"data of c"),
        ]
        assert flow.settle(_answers(messages)) == 3
        assert flow.read(3, wait_s=SHORT_S) == []
        flow.close()
        assert _found(target) == [("a", b"answer to a"), ("b", b"answer to b"), ("c", b"answer to c")]
        again = _open(source, target)
        assert again.read(3, wait_s=SHORT_S) == []
        again.close()

    def test_the_lag_is_what_nobody_has_settled(self, source: str, target: str) -> None:
        _put(source, "a", "b", "c")
        flow = _open(source, target)
        (first,) = _read(flow, 1)
        lags = [flow.lag()]
        flow.settle(_answers([first]))
        lags.append(flow.lag())
        flow.settle(_answers(_read(flow, 2)))
        assert flow.read(1, wait_s=SHORT_S) == []
        lags.append(flow.lag())
        flow.close()
        told = [lag for lag in lags if lag is not None]
        assert len(told) in (0, 3)
        more = max(0, told[0] - 3) if told else 0
        assert more <= self.lag_more
        assert told in ([], [3 + more, 2 + more, 0])

    def test_what_was_not_settled_comes_again(self, source: str, target: str) -> None:
        _put(source, "a", "b", "c")
        dead = _open(source, target)
        (first,) = _read(dead, 1)
        assert dead.settle(_answers([first])) == 1
        assert len(_read(dead, 2)) == 2
        dead.close()
        flow = _open(source, target)
        assert sorted(message.key for message in _read(flow, 2)) == sorted({"a", "b", "c"} - {first.key})
        flow.close()
        assert [key for key, _ in _found(target)] == [first.key]

    def test_one_key_is_answered_once_whoever_asks(self, source: str, target: str) -> None:
        _put(source, "a", "b", "a")
        flow = _open(source, target)
        assert flow.settle(_answers(_read(flow, 3))) == 2
        _put(source, "b", "d")
        assert flow.settle(_answers(_read(flow, 2))) == 1
        flow.close()
        other = _open(source, target, group="others")
        assert other.settle(_answers(_read(other, 5))) == 0
        other.close()
        assert [key for key, _ in _found(target)] == ["a", "b", "d"]

    def test_settling_again_changes_nothing(self, source: str, target: str) -> None:
        _put(source, "a", "b")
        flow = _open(source, target)
        bad, good = sorted(_read(flow, 2), key=lambda message: message.key)
        outcomes = [_refused(bad), *_answers([good])]
        assert flow.settle(outcomes) == 1
        assert flow.settle(outcomes) == 0
        flow.close()
        assert _found(target) == [("b", b"answer to b")]
        assert _found(source + REFUSED) == [("a", b"no")]

    def test_a_key_that_was_refused_may_be_answered_later(self, source: str, target: str) -> None:
        _put(source, "a")
        flow = _open(source, target)
        assert flow.settle([_refused(_read(flow, 1)[0])]) == 0
        _put(source, "a")
        assert flow.settle(_answers(_read(flow, 1))) == 1
        flow.close()

    def test_without_a_target_messages_are_taken_off_and_bad_ones_put_aside(self, source: str) -> None:
        _put(source, "a", "b", "a")
        flow = _open(source, None)
        messages = sorted(_read(flow, 3), key=lambda message: message.key)
        assert flow.settle([*_answers(messages[:2]), _refused(messages[2])]) == 0
        assert flow.read(3, wait_s=SHORT_S) == []
        flow.close()
        assert _found(source + REFUSED) == [("b", b"no")]

    def test_groups_take_everything_each(self, source: str, target: str) -> None:
        _put(source, "a")
        for group in ("one", "two"):
            flow = _open(source, f"{target}-{group}", group=group)
            assert flow.settle(_answers(_read(flow, 1))) == 1
            flow.close()

    def test_two_consumers_of_a_group_answer_each_message_once(self, source: str, target: str) -> None:
        _put(source, *(f"k{number}" for number in range(20)))
        one = _open(source, target)
        try:
            two = _open(source, target)
        except Conflict:  # shared out in time, not in number
            one.close()
            return
        second = _read(two, 10)
        done = two.settle(_answers(second))
        try:
            first = _read(one, 10)
            done += one.settle(_answers(first)) + one.settle(_answers(second))
        except Conflict:  # the newer one has taken over
            done += two.settle(_answers(_read(two, 10)))
        one.close()
        two.close()
        assert done == len(_found(target)) == 20

    def test_bytes_of_any_kind_pass(self, source: str, target: str) -> None:
        data = bytes(range(256)) * 400
        topic = open_topic(source)
        topic.append([("ключ", data)])
        topic.close()
        flow = _open(source, target)
        (message,) = _read(flow, 1)
        assert (message.key, message.data) == ("ключ", data)
        flow.close()

    def test_urls_that_cannot_be_one_step_are_refused(self, source: str, place: str) -> None:
        for target, says in (
            (source, "cannot be its own answer"),
            ("file:elsewhere/out", "lie in different places"),
            ("nowhere", "no topic"),
        ):
            with pytest.raises(Invalid, match=says):
                open_flow(source, target, group="g")
        with pytest.raises(Invalid, match="is not known"):
            open_topic("carrier-pigeon:roof/in")


def _open(source: str, target: str | None, *, group: str = "group") -> Flow:
    return open_flow(source, target, group=group, idle_s=IDLE_S)


def _put(url: str, *keys: str) -> None:
    topic = open_topic(url)
    topic.append([(key, f"data of {key}".encode()) for key in keys])
    topic.close()


def _found(url: str) -> list[tuple[str, bytes]]:
    topic = open_topic(url)
    found = [(message.key, message.data) for message in topic.messages()]
    topic.close()
    return sorted(found)


def _read(flow: Flow, count: int) -> list[Message]:
    """Return so many messages, which may come in parts."""
    found: list[Message] = []
    deadline = elapsed() + LONGEST_S
    while len(found) < count and elapsed() < deadline:  # what a dead one had comes once its silence is long enough
        found += flow.read(count - len(found), wait_s=SHORT_S)
    return found


def _answers(messages: Sequence[Message]) -> list[Outcome]:
    return [Outcome(message=message, key=message.key, data=f"answer to {message.key}".encode()) for message in messages]


def _refused(message: Message) -> Outcome:
    return Outcome(message=message, key=message.key, data=b"no", refused=True)
