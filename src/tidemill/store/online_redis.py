"""An online store in Redis: a namespace is one hash, so that a set of pairs is one round trip."""

import random
import re
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

from tidemill.core.clock import elapsed
from tidemill.core.errors import ExtraMissing, Invalid
from tidemill.core.settings import mask
from tidemill.store.online import Change, OnlineUnavailable, changed, check_distinct, check_keys, check_namespace

SCAN_PAIRS = 1000
TIMEOUT_S = 5.0
UPDATE_FOR_S = 30.0
_GLOB = re.compile(rb"([*?\[\]\\^-])")

# Writes new values if the fields still hold the old ones, each marked by one byte: 0 absent, 1 present. Fields are compared
# one by one, where WATCH would watch the whole hash and let writers of different keys disturb each other.
_COMPARE_AND_SET = """
local fields = (#ARGV) / 3
for i = 1, fields do
  local old = redis.call('HGET', KEYS[1], ARGV[i])
  local expected = ARGV[fields + i]
  if old == false then
    if expected ~= '0' then return 0 end
  elseif expected ~= '1' .. old then return 0 end
end
for i = 1, fields do
  local new = ARGV[2 * fields + i]
  if new == '0' then redis.call('HDEL', KEYS[1], ARGV[i])
  else redis.call('HSET', KEYS[1], ARGV[i], string.sub(new, 2)) end
end
return 1
"""


class RedisStore:
    """Pairs as fields of the hash `tidemill:NAMESPACE`. What survives a crash of Redis itself is Redis' own setting."""

    def __init__(self, url: str) -> None:
        try:
            import redis
        except ImportError as error:
            raise ExtraMissing("redis", "redis") from error
        self._where = mask(url)
        self._asking = _Asking(self._where, redis.RedisError)
        try:
            self._redis: Any = redis.Redis.from_url(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S)
        except ValueError as error:
            raise Invalid(f"online store {self._where!r} was not understood ({error}); expected redis://HOST:PORT/DB") from error
        self._compare_and_set = self._redis.register_script(_COMPARE_AND_SET)
        with self._asking:
            self._redis.ping()

    def __repr__(self) -> str:
        return f"RedisStore({self._where!r})"

    def get_many(self, namespace: str, keys: Sequence[bytes]) -> list[bytes | None]:
        return self.get_all([(namespace, keys)])[0]

    def get_all(self, asked: Sequence[tuple[str, Sequence[bytes]]]) -> list[list[bytes | None]]:
        for _, keys in asked:
            check_keys(keys)
        trips = [(_hash(namespace), keys) for namespace, keys in asked]
        there = [trip for trip in trips if trip[1]]
        with self._asking:
            if len(there) == 1:
                answers = iter([self._redis.hmget(*there[0])])
            elif there:
                pipeline = self._redis.pipeline(transaction=True)
                for name, keys in there:
                    pipeline.hmget(name, keys)
                answers = iter(pipeline.execute())
            else:
                answers = iter(())
        return [next(answers) if keys else [] for _, keys in trips]

    def put_many(self, namespace: str, items: Sequence[tuple[bytes, bytes]]) -> None:
        name = _hash(namespace)
        check_keys([key for key, _ in items])
        if items:
            with self._asking:
                self._redis.hset(name, mapping=dict(items))

    def update_many(self, namespace: str, keys: Sequence[bytes], change: Change) -> None:
        name = _hash(namespace)
        check_keys(keys)
        check_distinct(keys)
        if not keys:
            changed(change, [])
            return
        deadline = elapsed() + UPDATE_FOR_S
        pause = 0.0005
        while True:
            before = self.get_many(namespace, keys)
            after = changed(change, before)
            with self._asking:
                if self._compare_and_set(keys=[name], args=[*keys, *map(_marked, before), *map(_marked, after)]):
                    return
            if elapsed() > deadline:
                raise OnlineUnavailable(self._where, f"other writers changed the same keys for {UPDATE_FOR_S:.0f} s; write less at once")
            time.sleep(random.random() * pause)
            pause = min(pause * 2, 0.05)

    def scan(self, namespace: str, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        name = _hash(namespace)
        pattern = _GLOB.sub(rb"\\\1", prefix) + b"*"
        cursor = 0
        while True:
            with self._asking:
                cursor, pairs = self._redis.hscan(name, cursor, match=pattern, count=SCAN_PAIRS)
            yield from pairs.items()
            if cursor == 0:
                return

    def clear(self, namespace: str) -> None:
        with self._asking:
            self._redis.unlink(_hash(namespace))

    def close(self) -> None:
        self._redis.close()


class _Asking:
    """Tells what Redis refuses as what an online store refuses; several may be inside."""

    def __init__(self, where: str, failure: type[Exception]) -> None:
        self._where, self._failure = where, failure

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if isinstance(error, self._failure):
            raise OnlineUnavailable(self._where, f"Redis did not do what was asked ({error}); check that it runs and the URL") from error


@lru_cache(maxsize=1024)
def _hash(namespace: str) -> bytes:
    return b"tidemill:" + check_namespace(namespace)


def _marked(value: bytes | None) -> bytes:
    return b"0" if value is None else b"1" + value


def open_redis(place: str, *, base: Path) -> RedisStore:
    """Open `redis://[USER:PASSWORD@]HOST:PORT/DB`."""
    return RedisStore(f"redis:{place}")


def open_redis_tls(place: str, *, base: Path) -> RedisStore:
    """Open `rediss://…`, the same over TLS."""
    return RedisStore(f"rediss:{place}")
