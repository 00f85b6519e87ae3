"""What a stream is: messages in a topic that consumers of a group take, each once, answered into another topic."""

from collections.abc import Sequence
from typing import Protocol

from tidemill.core.codec import encode
from tidemill.core.errors import Invalid, Unavailable
from tidemill.core.settings import mask
from tidemill.core.values import Value

REFUSED = ".refused"  # what a topic's name ends with where the messages of it lie that nothing could be made of


class Message(Value, frozen=True, kw_only=True):
    """What stands in a topic. id: its place there, as its system names places; key: "" when it has none; trace: a traceparent, or ""."""

    id: str
    key: str
    data: bytes
    trace: str = ""


class Outcome(Value, frozen=True, kw_only=True):
    """What came of a message: the data that answers it under a key, or, refused, what to say of it in TOPIC.refused."""

    message: Message
    key: str
    data: bytes
    refused: bool = False


class Refusal(Value, frozen=True, kw_only=True):
    """What stands in SOURCE.refused: why, and the message as it came, as text."""

    reason: str
    message: str
    data: str


def refused(message: Message, reason: str) -> Outcome:
    """Return that nothing could be made of a message, and why."""
    told = Refusal(reason=reason, message=message.id, data=message.data.decode("utf-8", errors="replace"))
    return Outcome(message=message, key=message.key or message.id, data=encode(told), refused=True)


class Flow(Protocol):
    """One consumer of a group that takes messages from one topic and answers into another. The law for every implementation:

    - One thread uses it. Consumers of one group share the messages out, or the second one is a Conflict while the first one lives, or
      the first one is a Conflict once the second one has opened.
    - read returns messages that nobody in the group has settled, those first that a dead consumer had; until they are settled, they
      come again to some consumer. It waits for the first one up to wait_s, and returns [] then.
    - What was read is settled as a whole and in that order, before more is read.
    - A flow without a target answers nothing: what was answered is taken off, no more.
    - settle is atomic: the messages are taken off for the group, answers stand in the target, refusals in SOURCE.refused, or nothing
      of it; a message that was settled already, by whomever, changes nothing. Of outcomes with one key that are not refused, only the
      first ever stands in the target, whatever the consumer or the group.
    - Others see what was settled once settle has returned, and after the death of this process.
    - A system that cannot be reached is Unavailable.
    """

    def read(self, most: int, *, wait_s: float) -> list[Message]:
        """Return at most so many messages; those of one key in their order."""
        ...

    def settle(self, outcomes: Sequence[Outcome]) -> int:
        """Write what came of messages; return how many answers were new."""
        ...

    def lag(self) -> int | None:
        """Return how many messages of the source nobody in the group has settled; None where the system does not tell.

        It may count what is no message (Kafka: marks of transactions) until there is nothing left to read.
        """
        ...

    def close(self) -> None:
        """Let go. What was read and not settled is for others."""
        ...


class Topic(Protocol):
    """A topic to write to and look into. The law: append is atomic and durable as its system is; one thread uses it."""

    def append(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Add (key, data) pairs behind all others."""
        ...

    def messages(self) -> list[Message]:
        """Return all that stands in it, oldest first."""
        ...

    def close(self) -> None:
        """Let go."""
        ...


class StreamUnavailable(Unavailable):
    """The system behind a stream does not do what is asked."""

    def __init__(self, where: str, reason: str) -> None:
        self.where, self.reason = where, reason
        super().__init__(f"stream {where} cannot be used: {reason}; check that it runs and the URL, then start again: nothing is lost")


def split_url(url: str) -> tuple[str, str]:
    """Return the place and the topic of `SCHEME:PLACE/TOPIC`. Raises Invalid."""
    place, _, topic = url.rpartition("/")
    if not place or not topic or place.endswith(("/", ":")):
        raise Invalid(f"stream {mask(url)!r} names no topic; expected SCHEME:PLACE/TOPIC, as in redis://127.0.0.1:6379/0/flights")
    return place, topic
