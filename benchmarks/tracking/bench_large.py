"""One large file to a run and back, with the connection cut three times each way: how fast, and what the server holds in memory."""

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import psutil
from benchmarks.measure import Options, Report, options, seconds
from benchmarks.tracking import servers
from tests.client.faults import Proxy

import tidemill as tm
from tidemill.client.client import connect
from tidemill.core.digest import digest_file
from tidemill.govern.workspace import init_workspace

MB = 1 << 20


def write_file(path: Path, size: int) -> str:
    """Write random bytes; return their digest."""
    with path.open("wb") as file:
        for start in range(0, size, 8 * MB):
            file.write(os.urandom(min(8 * MB, size - start)))
    return digest_file(path)


@contextmanager
def watching(server: servers.Server) -> Iterator[list[float]]:
    """Collect the resident memory of the control plane, in MB, while a block runs."""
    control = next(
        process for process in psutil.Process(server.process.pid).children(recursive=True) if "tidemill.server.process" in process.cmdline()
    )
    found, over = [control.memory_info().rss / 1e6], threading.Event()

    def look() -> None:
        while not over.wait(0.02):
            found.append(control.memory_info().rss / 1e6)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    yield found
    over.set()
    thread.join()


def upload_s(url: str, path: Path) -> tuple[str, float]:
    """Log a file; return the run and the seconds until it has arrived."""
    begin = perf_counter()
    with tm.run("large", url=url, capture=False) as run:
        run.file(path)
        run.flush(timeout_s=3600)
    return run.id, perf_counter() - begin


def main(told: Options) -> Report:
    size = told.size(5_000, 100) * MB
    report = Report(
        "a large file of a run", f"{size / 1e9:.1f} GB of random bytes over loopback, cut three times each way", ("tidemill", "urllib3")
    )
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as name:
        folder = Path(name)
        os.environ["TIDEMILL_RUNS"] = str(folder / "runs")
        init_workspace(folder / "home").close()
        digest = write_file(folder / "large.bin", size)
        with servers.tidemill(folder / "home") as server, Proxy(int(server.url.rpartition(":")[2])) as proxy, watching(server) as memory:
            idle = memory[0]
            proxy.cut_requests = [size // 5, size // 4, size // 3]
            run, taken = upload_s(proxy.url, folder / "large.bin")
            assert proxy.cuts == 3
            report.add("up, cut three times", "MB/s", [size / 1e6 / taken])
            report.add("bytes sent for each byte of the file", "", [proxy.passed_up / size])
            _, again = upload_s(proxy.url, folder / "large.bin")
            report.add("up again, there already", "MB/s", [size / 1e6 / again])
            with connect(proxy.url) as client:
                proxy.cut_answers = [size // 5, size // 4, size // 3]
                down = seconds(lambda: client.runs.download(run, folder / "down"))
            assert proxy.cuts == 6
            assert digest_file(folder / "down" / "large.bin") == digest
            report.add("down, cut three times", "MB/s", [size / 1e6 / down])
            write_file(folder / "other.bin", size // 5)
            straight = [upload_s(server.url, folder / "other.bin")[1]]
            report.add("up, a fifth of it, without the proxy that cuts", "MB/s", [size / 5e6 / taken for taken in straight])
            report.add("control plane, idle", "MB", [idle])
            report.add("control plane, at its peak", "MB", [max(memory)])
    return report


if __name__ == "__main__":
    given = options(__doc__)
    main(given).show(given)
