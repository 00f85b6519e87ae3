"""Features from the online store, of 13 rows of the demo and of one of a million events: beside the same bytes alone, and Feast."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from struct import Struct
from time import perf_counter
from typing import Any

import lmdb
import numpy as np
import redis

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.features.bench_retrieval import HERE, feast, prepare, write
from benchmarks.flights import FEATURES, NOW, fill, read_plan, rows
from benchmarks.measure import Options, Report, in_turns, options, percentile, seconds
from tests.services import redis_server

from tidemill.core.codec import pack
from tidemill.features.definitions import read_view, view_plan
from tidemill.features.materialize import materialize
from tidemill.features.online import FeatureReader, ReadPlan, ViewPlan
from tidemill.govern.workspace import open_workspace
from tidemill.store.table import open_online

ROWS, EVENTS, HUNDRED = 13, 1_000_000, 100
UNTIL = datetime(2024, 6, 1, tzinfo=UTC)


class Asked:
    """Remembers which keys a reader asks a store for."""

    def __init__(self, online: object) -> None:
        self.online, self.keys = online, []

    def get_all(self, asked: list[tuple[str, list[bytes]]]) -> list[list[bytes | None]]:
        self.keys += [namespace.encode() + b"\0" + key for namespace, keys in asked for key in keys]
        return self.online.get_all(asked)


def main() -> None:
    """Measure and print."""
    told = options(__doc__)
    calls = told.size(1000, 20)
    size = told.size(EVENTS, 2000)
    report = Report(
        "features online",
        f"{ROWS} rows, 6 views, {len(FEATURES)} features, 900 flights in a day; then 3 latest values of a view of {size:,} events of "
        f"{size // 10:,} entities; one caller",
        ("lmdb", "numpy", "redis", "hiredis"),
    )
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as folder:
        online = open_online(f"lmdb:{folder}/online")
        fill(online)
        reader = FeatureReader(read_plan(), online)
        asked = rows(ROWS)
        columns = {name: [row[name] for row in asked] for name in asked[0]}
        spy = Asked(online)
        FeatureReader(read_plan(), spy).read(columns, NOW)
        online.close()
        del reader
        bytes_read = measure(told.rounds(7), calls, report, folder, columns, spy.keys)
        report.note(f"a read of {ROWS} rows fetches {len(spy.keys)} keys, {bytes_read:,} bytes")
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as name, report.needed(redis_server, "Redis") as url:
        folder = Path(name) / "some"
        write(folder, size)
        prepare(folder)
        places = {"LMDB": f"lmdb:{name}/online"} | ({"Redis": url} if url is not None else {})
        peers = {} if told.quick else feasts(folder, url, report)
        for kind, place in places.items():
            filled(report, told, folder, kind, place, peers.get(kind))
    report.show(told)


def feasts(folder: Path, url: str | None, report: Report) -> dict[str, dict[str, Any]]:
    """Return what Feast takes on SQLite, to stand beside LMDB, and on Redis."""
    try:
        command = [str(feast()), str(HERE / "peers" / "feast_peer.py"), str(folder)]
        found = {"LMDB": last_told_by([*command, "sqlite"])}
        if url is not None:
            found["Redis"] = last_told_by([*command, "redis", url.removeprefix("redis://").partition("/")[0]])
    except (subprocess.CalledProcessError, OSError) as error:
        report.note(f"Feast: skipped, it could not be installed here ({str(getattr(error, 'stderr', '') or error)[-150:]})")
        return {}
    return found


def last_told_by(command: list[str]) -> dict[str, Any]:
    """Run a task in a process of its own and return what it says after all that Feast says."""
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    told: dict[str, Any] = json.loads(done.stdout[done.stdout.rindex('{"seconds"') :])
    return told


def filled(report: Report, told: Options, folder: Path, kind: str, place: str, peer: dict[str, Any] | None) -> None:
    """Fill a store from a view and read one entity and a hundred, beside the bare library and Feast."""
    against = f"Feast on {'SQLite' if kind == 'LMDB' else kind}"
    with open_workspace(folder / "home", online=place) as ws:
        plan = view_plan(ws.project, read_view(ws, "view0"))
        report.add(f"{kind}: fill", "s", [seconds(lambda: materialize(ws, "view0", UNTIL, full=True)) for _ in range(told.rounds(3))])
        if peer is not None:
            report.add(f"{against}: fill", "s", [peer["seconds"]], against=f"{kind}: fill")
        entities = [key for key, _ in ws.online.scan(plan.namespace)]
        pairs = list(ws.online.scan(plan.namespace))
        ws.online.close()
    keys = np.array([int.from_bytes(key[2:], "big") if key[1] >= 0xCC else key[1] for key in entities])
    random, calls = np.random.default_rng(5), told.size(500, 20)
    bare = redis.Redis.from_url(place) if kind == "Redis" else None
    if bare is not None:
        for start in range(0, len(pairs), 10_000):
            bare.mset(dict(pairs[start : start + 10_000]))
    read = ReadPlan(project="default", services=("all@1",), views=(plan,), features=plan.wanted)
    for count, word in ((1, "one"), (HUNDRED, "hundred")):
        asked = [random.integers(0, len(keys), count) for _ in range(calls)]

        def by_ours(asked: list[np.ndarray] = asked) -> list[float]:
            online = open_online(place)
            reader = FeatureReader(read, online)
            found = spent([lambda rows=keys[each]: reader.read({"entity": rows}, UNTIL) for each in asked])
            online.close()
            return found

        def by_hand(asked: list[np.ndarray] = asked) -> list[float]:
            if bare is not None:
                return spent([lambda rows=[entities[place] for place in each]: bare.mget(rows) for each in asked])
            environment = lmdb.open(place.removeprefix("lmdb:"), map_size=1 << 30, sync=False, metasync=False)

            def get(rows: list[bytes]) -> list[bytes | None]:
                with environment.begin() as transaction:
                    return [transaction.get(row) for row in rows]

            head = plan.namespace.encode() + b"\0"
            found = spent([lambda rows=[head + entities[place] for place in each]: get(rows) for each in asked])
            environment.close()
            return found

        def by_hand_whole(asked: list[np.ndarray] = asked) -> list[float]:
            return whole_by_hand(place.removeprefix("lmdb:"), plan, [int(keys[each[0]]) for each in asked])

        alone = count == 1 and kind == "LMDB"
        rounds = [(by_hand(), by_ours(), by_hand_whole() if alone else []) for _ in range(told.rounds(11))]
        for share in (0.5, 0.99):
            floor = f"{kind}: {word}, bare, p{share * 100:.0f}"
            report.add(floor, "µs", [percentile(one, share) for one, _, _ in rounds])
            if alone:
                report.add(
                    f"{kind}: {word}, by hand, p{share * 100:.0f}", "µs", [percentile(one, share) for _, _, one in rounds], against=floor
                )
            report.add(f"{kind}: {word}, p{share * 100:.0f}", "µs", [percentile(one, share) for _, one, _ in rounds], against=floor)
            if peer is not None:
                times = [percentile(peer[word], share) * 1e6]
                report.add(f"{against}: {word}, p{share * 100:.0f}", "µs", times, against=f"{kind}: {word}, p{share * 100:.0f}")


def whole_by_hand(folder: str, plan: ViewPlan, entities: list[int]) -> list[float]:
    """Read one entity after the other as one would by hand for this view alone: key, bytes, time, and an array a feature."""
    environment = lmdb.open(folder, map_size=1 << 30, sync=False, metasync=False)
    head, moment = plan.namespace.encode() + b"\0", int(UNTIL.timestamp() * 1e6)
    unpack = Struct(f"<{8 * (1 + len(plan.wanted))}xq{len(plan.wanted)}d").unpack_from

    def read(entity: int) -> dict[str, np.ndarray]:
        with environment.begin() as transaction:
            time, *values = unpack(transaction.get(head + pack([entity])))
        assert time <= moment
        return {name: np.array([value]) for name, value in zip(plan.wanted, values, strict=True)}

    found = spent([lambda entity=entity: read(entity) for entity in entities])
    environment.close()
    return found


def spent(acts: list[Callable[[], object]]) -> list[float]:
    """Return how many microseconds each act takes."""
    taken = []
    for act in acts:
        start = perf_counter()
        act()
        taken.append((perf_counter() - start) * 1e6)
    return taken


def measure(rounds: int, calls: int, report: Report, folder: str, columns: dict[str, list[str]], keys: list[bytes]) -> int:
    """Add the lines; return how many bytes a read fetches. The file is open once at a time, as LMDB wants it."""

    found: dict[str, list[float]] = {}

    def keep(name: str, act: Callable[[], object]) -> float:
        taken = spent([act] * calls)
        for share in (0.5, 0.99):
            found.setdefault(f"{name}, p{share * 100:.0f}", []).append(percentile(taken, share))
        return 0.0

    def bare() -> float:
        environment = lmdb.open(f"{folder}/online", map_size=64 << 20, sync=False, metasync=False)

        def get() -> list[bytes | None]:
            with environment.begin() as transaction:
                return [transaction.get(key) for key in keys]

        keep("bare lmdb, the same keys", get)
        sizes.append(sum(len(value) for value in get() if value is not None))
        environment.close()
        return 0.0

    def ours() -> float:
        online = open_online(f"lmdb:{folder}/online")
        reader = FeatureReader(read_plan(), online)
        keep("FeatureReader.read", lambda: reader.read(columns, NOW))
        online.close()
        return 0.0

    sizes: list[int] = []
    in_turns(rounds, {"bare": bare, "ours": ours})
    for name, values in found.items():
        peer = f"bare lmdb, the same keys, {name.rpartition(' ')[2]}"
        report.add(name, "µs", values, against=None if name == peer else peer)
    return sizes[0]


if __name__ == "__main__":
    main()
