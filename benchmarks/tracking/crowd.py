"""One of a crowd: `python crowd.py native|mlflow URI RUN SECONDS` logs to one run for a while and prints how many points it logged.

Of each process the points are known: steps 0, 1, 2 … under a key of its own, and under one that all share.
"""

import os
import sys
from time import perf_counter


def native(uri: str, run_id: str, seconds: float, key: str) -> int:
    """Log by the SDK."""
    import tidemill as tm

    count, end = 0, perf_counter() + seconds
    with tm.run(resume=run_id, url=uri, capture=False) as run:
        while perf_counter() < end:
            for _ in range(200):
                run.log({key: float(count), "shared": float(count)}, step=count)
                count += 1
        run.flush()
    return count


def mlflow(uri: str, run_id: str, seconds: float, key: str) -> int:
    """Log by MLflow's client: single points and batches in turn."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    client, count, end = MlflowClient(uri), 0, perf_counter() + seconds
    while perf_counter() < end:
        client.log_metric(run_id, key, float(count), timestamp=count, step=count)
        client.log_metric(run_id, "shared", float(count), timestamp=count, step=count)
        count += 1
        steps = range(count, count + 20)
        client.log_batch(run_id, [Metric(name, float(step), step, step) for step in steps for name in (key, "shared")])
        count += 20
    return count


if __name__ == "__main__":
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONWARNINGS": "ignore"}
    kind, uri, run_id, seconds, key = sys.argv[1:]
    sys.stdout.write(f"{ {'native': native, 'mlflow': mlflow}[kind](uri, run_id, float(seconds), key) }\n")
