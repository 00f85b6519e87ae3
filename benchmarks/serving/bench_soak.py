"""A million requests to one worker: does its memory stay flat?"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.measure import Report, options
from benchmarks.serving import trees
from benchmarks.serving.bench_oip import worker

CONNECTIONS = 64


def main() -> None:
    """Measure and print."""
    told = options(__doc__)
    wanted, for_s = told.size(1_000_000, 500), 1.0 if told.quick else 10.0
    workload = f"{wanted:,} Open Inference requests of one row by {CONNECTIONS} connections, journaled"
    report = Report("soak", workload, ("onnxruntime", "uvloop"))
    model, output = trees.model(trees=told.size(200, 5))
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as name, worker(Path(name) / "home", model, output) as target:
        body, done, sizes, rates = trees.open_inference(1), 0.0, [], []
        while done < wanted:
            rate = trees.ask(target.port, target.path, body, connections=CONNECTIONS, for_s=for_s)[0]
            done += rate * for_s
            sizes.append(target.memory_mb())
            rates.append(rate)
        tenth = max(1, len(sizes) // 10)
        report.add("requests", "req/s", rates)
        report.add("memory in the first tenth", "MB", sizes[:tenth])
        report.add("memory in the last tenth", "MB", sizes[-tenth:])
        report.note(f"{done:,.0f} requests answered, none refused")
    report.show(told)


if __name__ == "__main__":
    main()
