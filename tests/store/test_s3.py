"""The S3 object store against a real S3-speaking server."""

import secrets
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import psutil
import pytest

from tests.services import free_port
from tidemill.core.errors import Corrupt, Invalid, Unavailable
from tidemill.core.ids import Digest
from tidemill.store.conformance import StoreConformance
from tidemill.store.s3 import PART_BYTES
from tidemill.store.table import open_store


def overwrite(url: str, digest: Digest, data: bytes) -> None:
    """Put bytes under a digest behind the store's back."""
    parts = urlsplit(url)
    endpoint = dict(parse_qsl(parts.query))["endpoint"]
    target = f"{endpoint}/{parts.netloc}{parts.path}/objects/{digest[:2]}/{digest[2:]}"
    headers = {"Authorization": "AWS test:test", "Content-Type": "application/octet-stream"}
    request = urllib.request.Request(target, data=data, method="PUT", headers=headers)
    with urllib.request.urlopen(request, timeout=10):
        pass


@pytest.fixture
def store_url(s3_url: str) -> str:
    """A store of its own for each test, in the one bucket."""
    return s3_url.replace("/store?", f"/{secrets.token_hex(4)}?")


@pytest.mark.slow
class TestS3Store(StoreConformance):
    @pytest.fixture
    def store_url(self, s3_url: str) -> str:
        return s3_url.replace("/store?", f"/{secrets.token_hex(4)}?")

    @pytest.fixture
    def damage(self, store_url: str) -> Callable[[Digest], None]:
        return lambda digest: overwrite(store_url, digest, b"other bytes")

    def test_a_damaged_object_never_enters_the_cache(self, store, store_url: str) -> None:
        digest = store.put(b"original")
        overwrite(store_url, digest, b"damaged!")
        with pytest.raises(Corrupt, match=digest):
            store.local_path(digest)
        overwrite(store_url, digest, b"original")
        assert store.local_path(digest).read_bytes() == b"original"


@pytest.mark.slow
def test_a_file_that_changes_while_it_goes_up_leaves_nothing(store_url: str, tmp_path: Path) -> None:
    store = open_store(store_url, cache=tmp_path / "cache")
    path = tmp_path / "changing"
    path.write_bytes(b"a" * (2 * PART_BYTES))
    digest = store.put(b"witness")
    with pytest.raises(Corrupt, match="changed while it was stored"):
        store._upload(Digest("f" * 64), iter([path.read_bytes()]))
    assert list(store.digests()) == [digest]


@pytest.mark.slow
def test_a_large_file_takes_bounded_memory(store_url: str, tmp_path: Path) -> None:
    store = open_store(store_url, cache=tmp_path / "cache")
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(200 << 20)
    store.put(b"warm")
    process, peak, done = psutil.Process(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.01):
            peak = max(peak, process.memory_info().rss)

    start = process.memory_info().rss
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        digest = store.put_file(big)
        assert store.local_path(digest).stat().st_size == 200 << 20
    finally:
        done.set()
        watcher.join()
    assert peak - start < 100 << 20


def test_an_unknown_option_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="unknown options acces_key; known are"):
        open_store("s3://bucket/prefix?acces_key=x", cache=tmp_path)
    with pytest.raises(Invalid, match="names no bucket"):
        open_store("s3:///prefix", cache=tmp_path)


@pytest.mark.slow
def test_a_service_that_is_not_there_is_unavailable_soon(tmp_path: Path) -> None:
    url = f"s3://bucket/prefix?endpoint=http://127.0.0.1:{free_port()}&region=us-east-1&access_key_id=a&secret_access_key=very-secret"
    store = open_store(url, cache=tmp_path)
    with pytest.raises(Unavailable, match="check that it runs and that the bucket exists") as caught:
        store.put(b"x")
    assert "very-secret" not in str(caught.value) + repr(store)


@pytest.mark.slow
def test_a_bucket_that_does_not_exist_is_unavailable(s3_url: str, tmp_path: Path) -> None:
    store = open_store(s3_url.replace("s3://tide-", "s3://ebb-"), cache=tmp_path)
    with pytest.raises(Unavailable, match=r"ebb-.* there is no such bucket"):
        store.put(b"x")
