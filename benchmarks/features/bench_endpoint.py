"""Fifty features looked up in process and at an endpoint, and two computed from the request: beside an endpoint to which they are sent."""

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.flights import FEATURES, NOW, PLANES, VIEWS, fill, read_plan, rows, view_plan
from benchmarks.measure import Options, Report, in_turns, options, percentile
from benchmarks.serving.bench_predict import endpoint
from benchmarks.serving.client import Asker, request
from tests.serving.plant import Plant

from tidemill.core.values import replace
from tidemill.features.on_demand import on_demand
from tidemill.features.online import FeatureReader, ReadPlan, push
from tidemill.features.views import Feature, FeatureService, FeatureView
from tidemill.store.online import OnlineStore
from tidemill.store.table import open_online

WIDE = FeatureView(
    name="wide", entity=("tailnum",), source="planes", event_timestamp="known_at",
    features=tuple(Feature(name=f"wide{number}") for number in range(10)),
)  # fmt: skip
FIFTY = (*FEATURES, *(feature.name for feature in WIDE.features))
KEYS = ("origin", "carrier", "tailnum")
SERVICE = FeatureService(
    name="delay",
    features=tuple(f"{view.name}:*" for view in (*VIEWS, WIDE)),
    computed={"crowded": "bags > coalesce(seats, 0)", "share": "bags / nullif(seats, 0)"},
    request={"bags": "double"},
)


def plan(*, computed: bool = False) -> ReadPlan:
    """Return the plan of fifty features of seven views, and of two that are computed from them and the request."""
    found = replace(read_plan(), views=(*map(view_plan, (*VIEWS, WIDE)),), features=FIFTY)
    if not computed:
        return found
    asked = on_demand(SERVICE, {view.name: view for view in (*VIEWS, WIDE)})
    return replace(found, features=(*FIFTY, *asked.kinds), on_demand=(asked,))


def fill_all(online: OnlineStore) -> None:
    """Fill all seven views."""
    fill(online)
    random = Random(3)
    values: dict[str, list[Any]] = {name.name: [random.random() for _ in range(PLANES)] for name in WIDE.features}
    planes = {"tailnum": [f"N{number:05}" for number in range(PLANES)], "known_at": [NOW - timedelta(days=1)] * PLANES}
    push(online, view_plan(WIDE), planes | values, now=NOW)


@contextmanager
def worker(home: Path) -> Iterator[int]:
    """Run a worker with three endpoints; yield its port."""
    plant = Plant(home)
    online = open_online("lmdb:online", base=plant.state)
    fill_all(online)
    online.close()
    with_computed = plan(computed=True)
    generation = plant.publish(
        endpoint(plant, "sent", FIFTY, FIFTY),
        endpoint(plant, "looked", FIFTY, KEYS, plan()),
        endpoint(plant, "computed", with_computed.features, (*KEYS, "bags"), with_computed),
    )
    with plant.worker() as caller:
        plant.wait(generation)
        yield caller.port


def asking(port: int, name: str, asked: list[dict[str, Any]]) -> Callable[[], None]:
    """Return what asks an endpoint over one kept connection and waits for the answer."""
    asker = Asker(port, request(f"/predict/{name}", json.dumps({"rows": asked, "at": NOW.isoformat()}).encode()))

    def ask() -> None:
        asker.ask()
        while not asker.answered():
            pass

    return ask


def measure(report: Report, told: Options, title: str, tasks: dict[str, Callable[[], object]]) -> None:
    """Let tasks take turns; add the median and the 99th percentile of each."""
    calls = told.size(3000, 20)
    found: dict[tuple[str, float], list[float]] = {}

    def load(name: str) -> float:
        taken = []
        for _ in range(calls):
            start = perf_counter()
            tasks[name]()
            taken.append((perf_counter() - start) * 1e6)
        for share in (0.5, 0.99):
            found.setdefault((name, share), []).append(percentile(taken, share))
        return 0.0

    in_turns(told.rounds(7), {name: lambda name=name: load(name) for name in tasks})
    for (name, share), values in sorted(found.items(), key=lambda pair: (pair[0][1], list(tasks).index(pair[0][0]))):
        report.add(f"{title}, {name}, p{share * 100:.0f}", "µs", values)


def main() -> None:
    """Measure and print."""
    told = options(__doc__)
    report = Report(
        "features at an endpoint",
        f"{len(FIFTY)} features of {len(VIEWS) + 1} views, 900 flights in a day; a network of 32 hidden units in ONNX; one caller who "
        "waits for each answer; then two features more, computed from the request",
        ("lmdb", "numpy", "onnxruntime", "uvloop"),
    )
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as name:
        apart = open_online(f"lmdb:{name}/apart")
        fill_all(apart)
        readers = {computed: FeatureReader(plan(computed=computed), apart) for computed in (False, True)}
        with worker(Path(name) / "home") as port:
            for count, title in ((1, "1 row"), (13, "13 rows")):
                departures: list[dict[str, Any]] = [row | {"bags": 120.0} for row in rows(count)]
                columns = {key: [row[key] for row in departures] for key in departures[0]}
                values = readers[False].read(columns, NOW)
                sent = [{key: float(np.nan_to_num(values[key][place])) for key in FIFTY} for place in range(count)]
                keys = [{key: row[key] for key in KEYS} for row in departures]
                tasks: dict[str, Callable[[], object]] = {
                    "in process": lambda columns=columns: readers[False].read(columns, NOW),
                    "in process, with two computed": lambda columns=columns: readers[True].read(columns, NOW),
                    "endpoint, features sent": asking(port, "sent", sent),
                    "endpoint, looked up": asking(port, "looked", keys),
                    "endpoint, with two computed": asking(port, "computed", departures),
                }
                for task in tasks.values():
                    task()
                measure(report, told, title, tasks)
        apart.close()
    report.show(told)


if __name__ == "__main__":
    main()
