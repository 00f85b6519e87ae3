"""Streams of Kafka: one transaction takes messages off and writes their answers. Keys answered before are read out of the target.

One consumer writes to a target, or of a group reads without one: its transactional id says so, and a newer one fences an older one off.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tidemill.core.clock import elapsed
from tidemill.core.digest import digest_bytes
from tidemill.core.errors import Conflict, ExtraMissing
from tidemill.store.streams import REFUSED, Message, Outcome, StreamUnavailable

TIMEOUT_S = 30.0
MADE_S = 10.0  # for a topic that is made when it is asked for
LOOK_S = 0.1
DIGITS = 16  # of a key's digest that are remembered: a key takes about 100 bytes
_TRACE = "traceparent"


class _Place:
    """Clients of one cluster, and what it says no to in one sentence."""

    def __init__(self, place: str) -> None:
        try:
            import confluent_kafka
        except ImportError as error:
            raise ExtraMissing("confluent-kafka", "kafka") from error
        self.kafka: Any = confluent_kafka
        self.where = place
        self._settings = {"bootstrap.servers": place.removeprefix("kafka://"), "log_level": 0}

    def consumer(self, group: str) -> Any:
        """Return a consumer that sees what was committed only, and commits nothing by itself."""
        return self.kafka.Consumer(
            {
                **self._settings, "group.id": group, "enable.auto.commit": False, "auto.offset.reset": "earliest",
                "isolation.level": "read_committed", "enable.partition.eof": True, "allow.auto.create.topics": True,
            }
        )  # fmt: skip

    def producer(self, transactional_id: str | None = None) -> Any:
        """Return a producer that waits for all replicas, of transactions if it has an id for them."""
        more = {"transactional.id": transactional_id} if transactional_id is not None else {"enable.idempotence": True}
        return self.kafka.Producer({**self._settings, **more})

    @contextmanager
    def asking(self) -> Iterator[None]:
        try:
            yield
        except self.kafka.KafkaException as error:
            told = error.args[0]
            kinds = self.kafka.KafkaError
            if told.code() in (kinds._FENCED, kinds.PRODUCER_FENCED, kinds.INVALID_PRODUCER_EPOCH):  # noqa: SLF001 (its public names)
                raise Conflict(f"another consumer has taken over at {self.where}; one answers into a topic at a time") from error
            raise StreamUnavailable(self.where, told.str()) from error

    def partitions(self, client: Any, topic: str) -> list[int]:
        """Return the partitions of a topic, which the cluster makes if it makes topics by itself."""
        deadline = elapsed() + MADE_S
        while True:
            with self.asking():
                found = client.list_topics(topic, timeout=TIMEOUT_S).topics[topic]
            if found.error is None and found.partitions:
                return sorted(found.partitions)
            if elapsed() > deadline:
                raise StreamUnavailable(self.where, f"topic {topic!r} is not there, and is not made when it is asked for; make it")
            time.sleep(LOOK_S)

    def read_all(self, topic: str, take: Callable[[Any], None]) -> None:
        """Show all that stands in a topic now, partition by partition."""
        consumer = self.consumer("tidemill-reads")
        try:
            waited = set(self.partitions(consumer, topic))
            consumer.assign([self.kafka.TopicPartition(topic, number, self.kafka.OFFSET_BEGINNING) for number in waited])
            deadline = elapsed() + TIMEOUT_S
            while waited:
                with self.asking():
                    for message in consumer.consume(1000, LOOK_S):
                        deadline = elapsed() + TIMEOUT_S
                        self._show(message, waited, take)
                if elapsed() > deadline:
                    raise StreamUnavailable(self.where, f"topic {topic!r} does not come to its end")
        finally:
            consumer.close()

    def _show(self, message: Any, waited: set[int], take: Callable[[Any], None]) -> None:
        told = message.error()
        if told is None:
            take(message)
        elif told.code() == self.kafka.KafkaError._PARTITION_EOF:  # noqa: SLF001 (likewise)
            waited.discard(message.partition())
        else:
            raise StreamUnavailable(self.where, told.str())


class KafkaFlow:
    """The one consumer that answers into a target. It reads all partitions of the source."""

    def __init__(self, place: str, source: str, target: str | None, *, group: str) -> None:
        self._at, self._source, self._target = _Place(place), source, target
        self._producer = self._at.producer(f"tidemill-{target}" if target is not None else f"tidemill-{source}-{group}")
        with self._at.asking():
            self._producer.init_transactions(TIMEOUT_S)  # ends what an older consumer had under way, before its answers are looked at
        self._answered: set[bytes] = set()
        if target is not None:
            self._at.read_all(target, lambda message: self._answered.add(_mark(_text(message.key()))))
        self._consumer = self._at.consumer(group)
        self._settled: dict[int, int] = {}
        self._read: dict[int, int] = {}  # the place behind what was read, by partition
        self._ends: dict[int, int] = {}  # that of an end that was seen
        partition = self._at.kafka.TopicPartition
        places = [partition(source, number) for number in self._at.partitions(self._consumer, source)]
        with self._at.asking():
            self._begin = {each.partition: each.offset for each in self._consumer.committed(places, TIMEOUT_S)}
            beginning = self._at.kafka.OFFSET_BEGINNING
            self._consumer.assign([partition(source, number, at if at >= 0 else beginning) for number, at in self._begin.items()])

    def read(self, most: int, *, wait_s: float) -> list[Message]:
        deadline = elapsed() + wait_s
        found: list[Message] = []
        while not found and elapsed() < deadline:
            with self._at.asking():
                told = self._consumer.consume(most, max(0.0, min(LOOK_S, deadline - elapsed())))
            found = [_message(each) for each in told if each.error() is None]
            for each in told:
                if each.error() is None:
                    self._read[each.partition()] = each.offset() + 1
                elif each.error().code() == self._at.kafka.KafkaError._PARTITION_EOF:  # noqa: SLF001 (likewise)
                    self._ends[each.partition()] = each.offset()
        return found

    def settle(self, outcomes: Sequence[Outcome]) -> int:
        reached = dict(self._settled)
        fresh: set[bytes] = set()
        with self._at.asking():
            self._producer.begin_transaction()
            try:
                for outcome in outcomes:
                    number, _, offset = outcome.message.id.partition(":")
                    if int(offset) < self._settled.get(int(number), 0):
                        continue
                    reached[int(number)] = max(reached.get(int(number), 0), int(offset) + 1)
                    self._write(outcome, fresh)
                places = [self._at.kafka.TopicPartition(self._source, number, offset) for number, offset in reached.items()]
                self._producer.send_offsets_to_transaction(places, self._consumer.consumer_group_metadata(), TIMEOUT_S)
                self._producer.commit_transaction(TIMEOUT_S)
            except self._at.kafka.KafkaException as error:
                if error.args[0].txn_requires_abort():
                    self._producer.abort_transaction(TIMEOUT_S)
                raise
        self._settled = reached
        self._answered |= fresh
        return len(fresh)

    def lag(self) -> int | None:
        behind = 0
        with self._at.asking():
            for number, begin in self._begin.items():
                place = self._at.kafka.TopicPartition(self._source, number)
                low, high = self._consumer.get_watermark_offsets(place, TIMEOUT_S)
                reached = max(low, begin, self._settled.get(number, 0))
                if reached >= self._read.get(number, 0):  # what is left before an end that was seen are marks of transactions
                    reached = max(reached, self._ends.get(number, 0))
                behind += max(0, high - reached)
        return behind

    def close(self) -> None:
        self._consumer.close()

    def _write(self, outcome: Outcome, fresh: set[bytes]) -> None:
        if outcome.refused:
            self._producer.produce(self._source + REFUSED, key=outcome.key, value=outcome.data)
        elif self._target is not None and (mark := _mark(outcome.key)) not in self._answered and mark not in fresh:
            fresh.add(mark)
            self._producer.produce(self._target, key=outcome.key, value=outcome.data)


class KafkaTopic:
    """One topic."""

    def __init__(self, place: str, topic: str) -> None:
        self._at, self._topic = _Place(place), topic

    def append(self, messages: Sequence[tuple[str, bytes]]) -> None:
        producer = self._at.producer(f"tidemill-{self._topic}-append")
        with self._at.asking():
            producer.init_transactions(TIMEOUT_S)
            producer.begin_transaction()
            for key, data in messages:
                producer.produce(self._topic, key=key, value=data)
            producer.commit_transaction(TIMEOUT_S)

    def messages(self) -> list[Message]:
        found: list[Any] = []
        self._at.read_all(self._topic, found.append)
        return [_message(each) for each in sorted(found, key=lambda each: (each.timestamp()[1], each.partition(), each.offset()))]

    def close(self) -> None:
        """Hold nothing."""


def _message(told: Any) -> Message:
    headers = dict(told.headers() or ())
    trace = (headers.get(_TRACE) or b"").decode(errors="replace")
    return Message(id=f"{told.partition()}:{told.offset()}", key=_text(told.key()), data=told.value() or b"", trace=trace)


def _text(key: bytes | None) -> str:
    return (key or b"").decode(errors="replace")


def _mark(key: str) -> bytes:
    return bytes.fromhex(digest_bytes(key.encode())[: 2 * DIGITS])


def open_flow(place: str, source: str, target: str | None, *, group: str, idle_s: float) -> KafkaFlow:
    """Open `kafka://BROKER[,BROKER…]`. idle_s has no meaning: a newer consumer takes over at once."""
    return KafkaFlow(place, source, target, group=group)


def open_topic(place: str, topic: str) -> KafkaTopic:
    """Open a topic of `kafka://BROKER[,BROKER…]`."""
    return KafkaTopic(place, topic)
