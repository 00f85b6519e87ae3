"""The object stores, online stores and streams there are, by URL scheme. Members are loaded when chosen; they never import this table."""

from importlib import import_module
from pathlib import Path
from typing import Any

from tidemill.core.errors import Invalid
from tidemill.core.settings import mask, nearest
from tidemill.store.objects import ObjectStore
from tidemill.store.online import OnlineStore
from tidemill.store.refs import Refs
from tidemill.store.streams import Flow, Topic, split_url

STORES = {
    "file": "tidemill.store.local:open_local",
    "s3": "tidemill.store.s3:open_s3",
}
REFS = {
    "file": "tidemill.store.refs:open_local_refs",
    "s3": "tidemill.store.s3:open_s3_refs",
}
ONLINE = {
    "lmdb": "tidemill.store.online_lmdb:open_lmdb",
    "redis": "tidemill.store.online_redis:open_redis",
    "rediss": "tidemill.store.online_redis:open_redis_tls",
}
STREAMS = {
    "file": "tidemill.store.streams_local",
    "kafka": "tidemill.store.streams_kafka",
    "redis": "tidemill.store.streams_redis",
    "rediss": "tidemill.store.streams_redis",
}


def open_store(url: str, *, cache: Path, base: Path = Path()) -> ObjectStore:
    """Open the object store of a URL: `file:FOLDER` (a relative one under base) or `s3://BUCKET/PREFIX?endpoint=URL`.

    cache is a folder in which a remote store keeps what it has read. Raises Invalid for a URL that no store knows,
    Unavailable for one that cannot be used.
    """
    scheme, _, place = url.partition(":")
    store: ObjectStore = _load(STORES, scheme, url, "object store")(place, cache=cache, base=base)
    return store


def open_refs(url: str, *, base: Path = Path()) -> Refs:
    """Open the refs beside an object store. Raises Invalid for a URL that no store knows."""
    scheme, _, place = url.partition(":")
    refs: Refs = _load(REFS, scheme, url, "object store")(place, base=base)
    return refs


def open_online(url: str, *, base: Path = Path()) -> OnlineStore:
    """Open the online store of a URL: `lmdb:FOLDER` (a relative one under base) or `redis://HOST:PORT/DB`."""
    scheme, _, place = url.partition(":")
    store: OnlineStore = _load(ONLINE, scheme, url, "online store")(place, base=base)
    return store


def open_flow(source: str, target: str | None, *, group: str, idle_s: float = 30.0) -> Flow:
    """Open a consumer of a group from one topic to another of the same place: `file:FOLDER/TOPIC`,
    `redis://HOST:PORT/DB/TOPIC` or `kafka://BROKER/TOPIC`. target: None for one that answers nothing.

    idle_s: the silence after which a consumer counts as dead, where its death cannot be seen. Raises Invalid, Conflict, Unavailable.
    """
    place, topic = split_url(source)
    there, answers = split_url(target) if target is not None else (place, None)
    if place != there:
        raise Invalid(
            f"streams {mask(source)!r} and {mask(str(target))!r} lie in different places; expected both in one, "
            f"which alone can take a message off and write its answer in one step"
        )
    if topic == answers:
        raise Invalid(f"stream {mask(source)!r} cannot be its own answer; name another topic behind --to")
    scheme = place.partition(":")[0]
    flow: Flow = _load(_members("open_flow"), scheme, source, "stream")(place, topic, answers, group=group, idle_s=idle_s)
    return flow


def open_topic(url: str) -> Topic:
    """Open one topic, to write to it or to look into it. Raises Invalid, Unavailable."""
    place, name = split_url(url)
    topic: Topic = _load(_members("open_topic"), place.partition(":")[0], url, "stream")(place, name)
    return topic


def _members(what: str) -> dict[str, str]:
    return {scheme: f"{module}:{what}" for scheme, module in STREAMS.items()}


def _load(table: dict[str, str], scheme: str, url: str, what: str) -> Any:
    if scheme not in table or ":" not in url:
        raise Invalid(f"{what} {mask(url)!r} is not known; {nearest(scheme, list(table))}, written SCHEME:PLACE")
    module, _, name = table[scheme].partition(":")
    return getattr(import_module(module), name)
