"""Many models in one worker under a budget of memory: first answers of those that are not in it, answers of those that are, memory."""

import http.client
import random
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.measure import Report, options
from benchmarks.serving import trees
from tests.serving.plant import Caller, Plant

from tidemill.core.codec import encode
from tidemill.serving.config import EndpointConfig, VariantConfig
from tidemill.store.trees import put_tree


def endpoints(plant: Plant, count: int, *, size: int) -> list[EndpointConfig]:
    """Store models that differ in a comment only, and return an endpoint of each."""
    import onnx

    data, output = trees.model(trees=size)
    model, spec = onnx.load_from_string(data), encode(trees.spec(output))
    made = []
    for number in range(count):
        model.doc_string = str(number)  # another model to every cache
        bundle = put_tree(plant.objects, {"model.onnx": model.SerializeToString(), "model.json": spec})
        made.append(plant.endpoint(VariantConfig(name="champion", model="trees", version=1, bundle=bundle), name=f"e{number}"))
    return made


class Asking:
    """A caller over one connection, and how long its answers took."""

    def __init__(self, caller: Caller) -> None:
        self._line, self._body = http.client.HTTPConnection("127.0.0.1", caller.port, timeout=60), trees.open_inference(1)
        self.process = psutil.Process(caller.process.pid)

    def ask(self, number: int) -> float:
        """Ask an endpoint; return the milliseconds until its answer."""
        begin = perf_counter()
        self._line.request("POST", f"/v2/models/e{number}/infer", self._body, {"content-type": "application/json"})
        answer = self._line.getresponse()
        told = answer.read()
        took = (perf_counter() - begin) * 1e3
        if answer.status != 200:
            raise SystemExit(f"the worker refused: {told!r}")
        return took

    def figure(self, name: str) -> float:
        """Return one of the worker's metrics."""
        self._line.request("GET", "/metrics")
        text = self._line.getresponse().read().decode()
        return next(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"tidemill_{name}{{"))

    def memory_mb(self) -> float:
        return float(self.process.memory_info().rss) / 1e6


def main() -> None:
    """Measure and print."""
    told = options(__doc__)
    count, room_mb, size = told.size(200, 6), told.size(80, 1), told.size(200, 5)
    report = Report(
        "many models",
        f"{count} models of {size} trees of LightGBM over {len(trees.COLUMNS)} numbers in ONNX, an endpoint of each, one caller that sends "
        f"one row; one worker with all of them in memory, one with a budget of {room_mb} MB",
        ("onnxruntime", "lightgbm"),
    )
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as name:
        hits: dict[str, list[float]] = {}
        for what, settings in (("all in memory", {}), ("under the budget", {"serve_memory_mb": room_mb})):
            plant = Plant(Path(name) / what.replace(" ", "-"), model_deadline_s=120, **settings)
            plant.publish(*endpoints(plant, count, size=size))
            begin = perf_counter()
            with plant.worker() as caller:
                report.add(f"{what}: until it answers", "s", [perf_counter() - begin])
                asking = Asking(caller)
                report.add(f"{what}: memory at the start", "MB", [asking.memory_mb()])
                first = [asking.ask(number) for number in range(count)]
                report.add(f"{what}: first answer of each", "ms", first)
                report.add(f"{what}: memory then", "MB", [asking.memory_mb()])
                report.add(f"{what}: models in memory then", "models", [asking.figure("models_loaded")])
                asking.ask(count - 1)
                hits[what] = [asking.ask(count - 1) for _ in range(told.size(2000, 5))]
                if settings:
                    picks = random.Random(1).choices(range(count), k=told.size(1000, 12))
                    report.add(f"{what}: answer of any at random", "ms", [asking.ask(number) for number in picks])
                    report.add(f"{what}: memory at the end", "MB", [asking.memory_mb()])
                    report.note(f"{asking.figure('evictions_total'):.0f} endpoints made room for others")
        for what, values in hits.items():
            report.add(f"{what}: answer of one in memory", "ms", values)
    report.show(told)


if __name__ == "__main__":
    main()
