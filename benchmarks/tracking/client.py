"""What one process of MLflow's real client does to a server: tasks as lines of JSON on standard input, `[URI, TASK, COUNT, PLACE]`.

For each it makes ready, prints where it will work, waits for a line before the clock runs, so that several processes begin
together, and prints how long it took.
"""

import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

os.environ |= {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

POINTS = 1000


def single_calls(client: MlflowClient, run: str, count: int) -> None:
    """One point a call."""
    for step in range(count):
        client.log_metric(run, "loss", step / 7, step=step)


def batches(client: MlflowClient, run: str, count: int) -> None:
    """A thousand points a call."""
    for batch in range(count):
        first = batch * POINTS
        client.log_batch(run, metrics=[Metric("loss", step / 7, 1_700_000_000_000 + step, step) for step in range(first, first + POINTS)])


def whole_runs(client: MlflowClient, experiment: str, count: int) -> None:
    """A run begun, filled in one batch, and ended."""
    for number in range(count):
        run = client.create_run(experiment, run_name=f"run {number}").info.run_id
        client.log_batch(
            run,
            metrics=[Metric(f"metric_{key}", number / 7, 1_700_000_000_000, 0) for key in range(50)],
            params=[Param(f"param_{key}", str(number)) for key in range(10)],
            tags=[RunTag("team", "a")],
        )
        client.set_terminated(run)


def history(client: MlflowClient, run: str, count: int) -> None:
    """Read all points of a metric."""
    found = client.get_metric_history(run, "loss")
    assert len(found) == count, f"{len(found)} of {count} points came back"


def upload_large(client: MlflowClient, run: str, count: int) -> None:
    """One file of `count` megabytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.bin"
        path.write_bytes(os.urandom(1 << 20) * count)
        timed(lambda: client.log_artifact(run, str(path)))


def upload_small(client: MlflowClient, run: str, count: int) -> None:
    """Many files of a kilobyte."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            (Path(folder) / f"{number}.txt").write_bytes(os.urandom(1024))
        timed(lambda: client.log_artifacts(run, folder, "small"))


def download_small(client: MlflowClient, run: str, count: int) -> None:
    """The same back."""
    with tempfile.TemporaryDirectory() as folder:
        timed(lambda: client.download_artifacts(run, "small", folder))
        assert len(list((Path(folder) / "small").iterdir())) == count


def search(client: MlflowClient, experiment: str, count: int, **asked: object) -> None:
    """One search."""
    found = client.search_runs([experiment], max_results=100, **asked)  # type: ignore[arg-type]
    assert len(found) <= 100


def page_through(client: MlflowClient, experiment: str, count: int) -> None:
    """All runs, page by page."""
    seen, token = 0, None
    while True:
        page = client.search_runs([experiment], max_results=100, page_token=token)
        seen += len(page)
        token = page.token
        if not token:
            break
    assert seen == count, f"{seen} of {count} runs came by"


SEARCHES: dict[str, Callable[[MlflowClient, str, int], None]] = {
    "search_filtered": lambda client, place, count: search(
        client, place, count, filter_string="metrics.metric_1 > 0.5 AND params.param_3 = '7'", order_by=["metrics.metric_2 DESC"]
    ),
    "search_first": search,
    "search_like": lambda client, place, count: search(client, place, count, filter_string="tags.team LIKE '%1'"),
    "page_through": page_through,
}


def new_experiment(client: MlflowClient, place: str, count: int) -> None:
    """Nothing: making ready makes the experiment."""


TASKS = {
    task.__name__: task for task in (single_calls, batches, whole_runs, history, upload_large, upload_small, download_small, new_experiment)
} | SEARCHES  # fmt: skip
_clock: list[float] = []


def timed(act: Callable[[], object]) -> None:
    """Run the part of a task that counts."""
    begin = perf_counter()
    act()
    _clock.append(perf_counter() - begin)


def main() -> None:
    logging.disable(logging.WARNING)
    for line in sys.stdin:
        uri, task, count, place = json.loads(line)
        client = MlflowClient(uri)
        _clock.clear()
        place = ready(client, task, count, place)
        tell(place)
        sys.stdin.readline()
        begin = perf_counter()
        TASKS[task](client, place, count)
        tell(str(_clock[0] if _clock else perf_counter() - begin))


def ready(client: MlflowClient, task: str, count: int, place: str) -> str:
    """Make what a task needs; return the run or experiment that it is done to."""
    if task == "new_experiment":
        return client.create_experiment(place)
    if task in SEARCHES:
        if task != "page_through":
            TASKS[task](client, place, count)  # the first search opens connections and caches on every side
    elif task not in ("whole_runs", "history", "download_small"):
        place = client.create_run(place).info.run_id
    if task in ("single_calls", "batches"):
        client.log_metric(place, "warm", 1.0)
    return place


def tell(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
