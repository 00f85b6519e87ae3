"""Streams of Redis. An entry has the fields `data`, and if wanted `key` and `traceparent`; what has no `data` is refused by its reader."""

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tidemill.core.errors import ExtraMissing, Invalid
from tidemill.core.ids import new_id
from tidemill.core.settings import mask
from tidemill.store.streams import REFUSED, Message, Outcome, StreamUnavailable

TIMEOUT_S = 5.0
REMEMBERED_S = 7 * 24 * 3600  # for which a key is known to have been answered
_BUSY_GROUP = "BUSYGROUP"

# One message after the other: taken off for the group, and, if that was news, answered or refused. Redis runs it as one step.
_SETTLE = """
local source, target, refused, answered = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, now, fresh = ARGV[1], tonumber(redis.call('TIME')[1]), 0
redis.call('ZREMRANGEBYSCORE', answered, '-inf', now - tonumber(ARGV[2]))
for place = 3, #ARGV, 4 do
  local id, kind, key, data = ARGV[place], ARGV[place + 1], ARGV[place + 2], ARGV[place + 3]
  if redis.call('XACK', source, group, id) == 1 then
    if kind == 'refused' then
      redis.call('XADD', refused, '*', 'key', key, 'data', data)
    elseif kind == 'answer' and redis.call('ZADD', answered, 'NX', now, key) == 1 then
      redis.call('XADD', target, '*', 'key', key, 'data', data)
      fresh = fresh + 1
    end
  end
end
return fresh
"""


class _Place:
    """A connection, and what Redis says no to in one sentence."""

    def __init__(self, url: str) -> None:
        try:
            import redis
        except ImportError as error:
            raise ExtraMissing("redis", "redis") from error
        self.where = mask(url)
        try:
            self.redis: Any = redis.Redis.from_url(url, socket_timeout=2 * TIMEOUT_S, socket_connect_timeout=TIMEOUT_S)
        except ValueError as error:
            raise Invalid(f"stream {self.where!r} was not understood ({error}); expected redis://HOST:PORT/DB/TOPIC") from error

    @contextmanager
    def asking(self) -> Iterator[None]:
        import redis

        try:
            yield
        except redis.RedisError as error:
            raise StreamUnavailable(self.where, str(error)) from error


class RedisFlow:
    """A consumer of a group. One that falls silent for idle_s loses what it has read to the others."""

    def __init__(self, url: str, source: str, target: str | None, *, group: str, idle_s: float) -> None:
        self._at, self._source, self._target, self._group = _Place(url), source, target, group
        self._idle_ms = int(idle_s * 1000)
        self._me = f"{socket.gethostname()}-{os.getpid()}-{new_id()[-8:]}"
        self._settle = self._at.redis.register_script(_SETTLE)
        with self._at.asking():
            self._make_group()

    def read(self, most: int, *, wait_s: float) -> list[Message]:
        with self._at.asking():
            _, left, *_ = self._at.redis.xautoclaim(self._source, self._group, self._me, self._idle_ms, "0-0", count=most)
            if found := [_message(place, fields) for place, fields in left if fields is not None]:
                return found
            block = max(1, int(min(wait_s, TIMEOUT_S) * 1000))
            told = self._at.redis.xreadgroup(self._group, self._me, {self._source: ">"}, count=most, block=block)
        entries = [entry for _, those in (told.items() if isinstance(told, dict) else told or ()) for entry in those]
        return [_message(place, fields) for place, fields in entries]

    def settle(self, outcomes: Sequence[Outcome]) -> int:
        target, done = (self._target, "answer") if self._target is not None else (self._source, "taken")
        names = [self._source, target, self._source + REFUSED, f"{target}.answered"]
        words: list[str | bytes | int] = [self._group, REMEMBERED_S]
        for outcome in outcomes:
            words += [outcome.message.id, "refused" if outcome.refused else done, outcome.key, outcome.data]
        with self._at.asking():
            return int(self._settle(keys=names, args=words))

    def lag(self) -> int | None:
        with self._at.asking():
            groups = self._at.redis.xinfo_groups(self._source)
        mine: dict[str, Any] = next((each for each in groups if each["name"] in (self._group, self._group.encode())), {})
        lag = mine.get("lag")  # since Redis 7, and not behind messages that were deleted
        return None if lag is None else int(lag) + int(mine["pending"])

    def close(self) -> None:
        self._at.redis.close()

    def _make_group(self) -> None:
        import redis

        try:
            self._at.redis.xgroup_create(self._source, self._group, id="0", mkstream=True)
        except redis.ResponseError as error:
            if _BUSY_GROUP not in str(error):
                raise


class RedisTopic:
    """One stream."""

    def __init__(self, url: str, topic: str) -> None:
        self._at, self._topic = _Place(url), topic

    def append(self, messages: Sequence[tuple[str, bytes]]) -> None:
        with self._at.asking(), self._at.redis.pipeline(transaction=True) as pipe:
            for key, data in messages:
                pipe.xadd(self._topic, {"key": key, "data": data})
            pipe.execute()

    def messages(self) -> list[Message]:
        with self._at.asking():
            return [_message(place, fields) for place, fields in self._at.redis.xrange(self._topic)]

    def close(self) -> None:
        self._at.redis.close()


def _message(place: bytes, fields: dict[bytes, bytes]) -> Message:
    return Message(
        id=place.decode(),
        key=fields.get(b"key", b"").decode(errors="replace"),
        data=fields.get(b"data", b""),
        trace=fields.get(b"traceparent", b"").decode(errors="replace"),
    )


def open_flow(place: str, source: str, target: str | None, *, group: str, idle_s: float) -> RedisFlow:
    """Open `redis://[USER:PASSWORD@]HOST:PORT/DB`, or `rediss://…` for TLS."""
    return RedisFlow(place, source, target, group=group, idle_s=idle_s)


def open_topic(place: str, topic: str) -> RedisTopic:
    """Open a stream of `redis://HOST:PORT/DB`."""
    return RedisTopic(place, topic)
