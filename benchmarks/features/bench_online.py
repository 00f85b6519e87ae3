"""Features of 13 rows from the online store, the demo's quarter of an hour, beside fetching the same bytes and nothing more."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import lmdb

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.flights import FEATURES, NOW, fill, read_plan, rows
from benchmarks.measure import Report, in_turns, options, percentile

from tidemill.features.online import FeatureReader
from tidemill.store.table import open_online

ROWS = 13


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
    report = Report(
        "features online", f"{ROWS} rows, 6 views, {len(FEATURES)} features, 900 flights in a day, one caller", ("lmdb", "numpy")
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
        report.note(f"a read fetches {len(spy.keys)} keys, {bytes_read:,} bytes")
    report.show(told)


def measure(rounds: int, calls: int, report: Report, folder: str, columns: dict[str, list[str]], keys: list[bytes]) -> int:
    """Add the lines; return how many bytes a read fetches. The file is open once at a time, as LMDB wants it."""

    def spent(act: Callable[[], object]) -> list[float]:
        taken = []
        for _ in range(calls):
            start = perf_counter()
            act()
            taken.append((perf_counter() - start) * 1e6)
        return taken

    found: dict[str, list[float]] = {}

    def keep(name: str, act: Callable[[], object]) -> float:
        taken = spent(act)
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
