"""What an online store is: bytes by (namespace, key), looked up while a caller waits. Where they lie is said by its members."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from tidemill.core.errors import Invalid, Unavailable

KEY_BYTES = 350
NAMESPACE_BYTES = 128
Change = Callable[[list[bytes | None]], list[bytes | None]]


class OnlineStore(Protocol):
    """Bytes by namespace and key; the last write wins. The law for every implementation:

    - Every method may be called from several threads and processes at once, and in a process that was forked.
    - put_many and update_many are atomic: others see all of a call or nothing of it. What they wrote survives the process.
    - update_many reads, changes and writes as if it were alone. change is pure: it may be called again when another writer
      was faster. It returns as many values as it got; None deletes the key.
    - A namespace is 1 to 128 bytes of UTF-8, a key 1 to 350 bytes, a value any bytes; Invalid otherwise, nothing is written.
    - Nothing is sorted; a key written or deleted during a scan may or may not be in it, every other one is in it: once, unless keys are
      deleted meanwhile. A scan takes memory for a part of the pairs only.
    - A store that cannot be reached is Unavailable.
    """

    def get_many(self, namespace: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of keys in their order, None for an absent one."""
        ...

    def get_all(self, asked: Sequence[tuple[str, Sequence[bytes]]]) -> list[list[bytes | None]]:
        """Return what get_many returns of each namespace and its keys, all as of one moment, in one trip."""
        ...

    def put_many(self, namespace: str, items: Sequence[tuple[bytes, bytes]]) -> None:
        """Write pairs; of a key that stands twice the later one counts."""
        ...

    def update_many(self, namespace: str, keys: Sequence[bytes], change: Change) -> None:
        """Replace the values of distinct keys by what change makes of them."""
        ...

    def scan(self, namespace: str, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Yield the pairs whose key begins with prefix."""
        ...

    def clear(self, namespace: str) -> None:
        """Delete a namespace's pairs."""
        ...

    def close(self) -> None:
        """Let go of connections and files. The store is not used again."""
        ...


class OnlineUnavailable(Unavailable):
    """The online store cannot be used right now."""

    def __init__(self, where: str, reason: str) -> None:
        self.where, self.reason = where, reason
        super().__init__(f"online store {where} cannot be used: {reason}")


def check_namespace(namespace: str) -> bytes:
    """Return the namespace's bytes. Raises Invalid."""
    data = namespace.encode()
    if not 1 <= len(data) <= NAMESPACE_BYTES:
        raise Invalid(f"namespace {namespace[:40]!r} has {len(data)} bytes; expected 1 to {NAMESPACE_BYTES}")
    return data


def check_keys(keys: Sequence[bytes]) -> None:
    """Raise Invalid for a key that is empty or too long."""
    for key in keys:
        if not 0 < len(key) <= KEY_BYTES:
            raise Invalid(f"key {bytes(key[:40])!r} has {len(key)} bytes; expected 1 to {KEY_BYTES}")


def check_distinct(keys: Sequence[bytes]) -> None:
    """Raise Invalid when a key stands twice: an update of it would have two answers."""
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if list(keys).count(key) > 1)
        raise Invalid(f"key {bytes(twice[:40])!r} stands twice in one update; expected distinct keys")


def changed(change: Change, before: list[bytes | None]) -> list[bytes | None]:
    """Return what change makes of values. Raises Invalid when it returns another number of them."""
    after = change(list(before))
    if len(after) != len(before):
        raise Invalid(f"change returned {len(after)} values for {len(before)} keys; expected one each, None to delete")
    return after
