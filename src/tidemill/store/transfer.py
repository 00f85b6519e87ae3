"""Objects from one store to another: only what is missing there, few requests, and again from where it stopped."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed

from tidemill.core.ids import Digest
from tidemill.core.values import Value
from tidemill.store.objects import ObjectStore

_AT_ONCE = 4
_READ_BYTES = 4 << 20


class Transferred(Value, frozen=True, kw_only=True):
    """What a transfer sent: objects and bytes, and how many objects were there already."""

    sent: int
    sent_bytes: int
    there: int


def transfer(
    source: ObjectStore, target: ObjectStore, digests: Iterable[Digest], *, watch: Callable[[int, int], None] | None = None
) -> Transferred:
    """Have objects in target that are in source, and what they are made of. watch: is told how many objects of how many are there.

    What arrived before an interruption is not sent again. Everything sent is verified on its way, except recipes, which are when they are
    read. Raises ObjectNotFound, ObjectCorrupt.
    """
    wanted = set(digests)
    wanted |= source.made_of(wanted)
    there = target.renew_all(wanted)
    left = wanted - there
    done, size, sent = len(there), 0, 0

    def told(bytes_sent: int) -> None:
        nonlocal done, size
        done, size = done + 1, size + bytes_sent
        if watch is not None:
            watch(done, len(wanted))

    with target.batch() as batch:
        for payload in source.payloads(sorted(left)):
            batch.put_payload(payload)
            left.discard(payload.digest)
            sent += 1
            told(len(payload.data))
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        for each in as_completed([threads.submit(_send, source, target, digest) for digest in sorted(left)]):
            bytes_sent = each.result()
            sent += bytes_sent is not None
            told(bytes_sent or 0)
    return Transferred(sent=sent, sent_bytes=size, there=len(wanted) - sent)


def _send(source: ObjectStore, target: ObjectStore, digest: Digest) -> int | None:
    """Send one object as it is; return its bytes, None when it is there."""
    if target.has(digest):
        return None
    with source.open(digest) as stream:
        target.put_chunks(iter(lambda: stream.read(_READ_BYTES), b""), expected=digest)
    return source.size(digest)
