"""The object stores and online stores there are, by URL scheme. Members are loaded when chosen; they never import this table."""

from importlib import import_module
from pathlib import Path
from typing import Any

from tidemill.core.errors import Invalid
from tidemill.core.settings import mask, nearest
from tidemill.store.objects import ObjectStore
from tidemill.store.online import OnlineStore

STORES = {
    "file": "tidemill.store.local:open_local",
    "s3": "tidemill.store.s3:open_s3",
}
ONLINE = {
    "lmdb": "tidemill.store.online_lmdb:open_lmdb",
    "redis": "tidemill.store.online_redis:open_redis",
    "rediss": "tidemill.store.online_redis:open_redis_tls",
}


def open_store(url: str, *, cache: Path, base: Path = Path()) -> ObjectStore:
    """Open the object store of a URL: `file:FOLDER` (a relative one under base) or `s3://BUCKET/PREFIX?endpoint=URL`.

    cache is a folder in which a remote store keeps what it has read. Raises Invalid for a URL that no store knows,
    Unavailable for one that cannot be used.
    """
    scheme, _, place = url.partition(":")
    store: ObjectStore = _load(STORES, scheme, url, "object store")(place, cache=cache, base=base)
    return store


def open_online(url: str, *, base: Path = Path()) -> OnlineStore:
    """Open the online store of a URL: `lmdb:FOLDER` (a relative one under base) or `redis://HOST:PORT/DB`."""
    scheme, _, place = url.partition(":")
    store: OnlineStore = _load(ONLINE, scheme, url, "online store")(place, base=base)
    return store


def _load(table: dict[str, str], scheme: str, url: str, what: str) -> Any:
    if scheme not in table or ":" not in url:
        raise Invalid(f"{what} {mask(url)!r} is not known; {nearest(scheme, list(table))}, written SCHEME:PLACE")
    module, _, name = table[scheme].partition(":")
    return getattr(import_module(module), name)
