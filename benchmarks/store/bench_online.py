"""Looking 100 keys up in the online store, beside the bare library on the same data."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import lmdb
import redis

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.measure import Options, Report, in_turns, options, seconds
from tests.services import redis_server

from tidemill.store.online import OnlineStore
from tidemill.store.table import open_online

NAMESPACE = "bench"
PAIRS, ASKED, VALUE_BYTES = 20_000, 100, 400


def pairs(count: int) -> list[tuple[bytes, bytes]]:
    """Return what the stores hold."""
    random = Random(1)
    return [(b"key-%08d" % number, random.randbytes(VALUE_BYTES)) for number in range(count)]


def compare(report: Report, told: Options, name: str, store: OnlineStore, bare: Callable[[list[bytes]], list[bytes]], peer: str) -> None:
    """Measure look-ups by the store and by the bare library; both must find the same."""
    data = pairs(told.size(PAIRS, 200))
    store.put_many(NAMESPACE, data)
    random, calls = Random(2), told.size(2000, 20)
    asked = [[data[random.randrange(len(data))][0] for _ in range(ASKED)] for _ in range(calls)]
    assert bare(asked[0]) == store.get_many(NAMESPACE, asked[0]) == [dict(data)[key] for key in asked[0]]

    def spent(look_up: Callable[[list[bytes]], object]) -> float:
        return seconds(lambda: [look_up(keys) for keys in asked]) / calls * 1e6

    tasks = {peer: lambda: spent(bare), f"{name} get_many": lambda: spent(lambda keys: store.get_many(NAMESPACE, keys))}
    for what, values in in_turns(told.rounds(7), tasks).items():
        report.add(what, "µs/call", values, against=None if what == peer else peer)
    store.close()


def main() -> None:
    """Measure and print."""
    told = options(__doc__)
    report = Report("online store", f"{ASKED} random keys a call among {PAIRS:,} of {VALUE_BYTES} bytes, one caller", ("lmdb", "redis"))
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as folder:
        environment = lmdb.open(f"{folder}/bare", map_size=64 << 20, sync=False, metasync=False)
        with environment.begin(write=True) as transaction:
            for key, value in pairs(told.size(PAIRS, 200)):
                transaction.put(key, value)

        def get(keys: list[bytes]) -> list[bytes]:
            with environment.begin() as transaction:
                return [transaction.get(key) for key in keys]

        compare(report, told, "LMDB", open_online(f"lmdb:{folder}/ours"), get, "bare lmdb")
        environment.close()
    with report.needed(redis_server, "Redis") as url:
        if url is not None:
            bare = redis.Redis.from_url(url)
            bare.mset(dict(pairs(told.size(PAIRS, 200))))
            compare(report, told, "Redis", open_online(url), bare.mget, "bare MGET")
            report.note(
                f"Redis {bare.info('server')['redis_version']} on loopback; ours asks HMGET of one hash, so that a namespace is one key"
            )
            bare.close()
    report.show(told)


if __name__ == "__main__":
    main()
