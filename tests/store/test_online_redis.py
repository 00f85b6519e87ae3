"""The Redis online store against a real Redis."""

import pytest

from tests.services import free_port
from tidemill.core.errors import Invalid, Unavailable
from tidemill.store.conformance import OnlineConformance
from tidemill.store.table import open_online


@pytest.mark.slow
class TestRedis(OnlineConformance):
    @pytest.fixture
    def online_url(self, redis_url: str) -> str:
        return redis_url


def test_a_redis_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(Unavailable, match=r"redis://u:\*\*\*@127.0.0.1.*check that it runs"):
        open_online(f"redis://u:hidden@127.0.0.1:{free_port()}/0")


def test_a_url_that_is_none_is_refused() -> None:
    with pytest.raises(Invalid, match="expected redis://HOST:PORT/DB"):
        open_online("redis://localhost:notaport/0")


@pytest.mark.slow
def test_writers_of_different_keys_do_not_disturb_each_other(redis_url: str) -> None:
    store = open_online(redis_url)
    calls = 0

    def change(values: list[bytes | None]) -> list[bytes | None]:
        nonlocal calls
        calls += 1
        store.put_many("apart", [(b"other", str(calls).encode())])  # another field of the same hash changes meanwhile
        return [b"mine"]

    store.update_many("apart", [b"key"], change)
    assert calls == 1
    store.clear("apart")
    store.close()
