"""How long the door takes to open: import, help, and `tidemill up` until it answers."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.measure import Report, in_turns, options, seconds
from tests.services import end

PYTHON = sys.executable
BARE = "python -c pass"
COMMANDS = {
    BARE: [PYTHON, "-c", "pass"],
    "python -c 'import tidemill'": [PYTHON, "-c", "import tidemill"],
    "tidemill --help": [str(Path(PYTHON).parent / "tidemill"), "--help"],
}


def call(command: list[str]) -> float:
    """Return milliseconds of one process, from its start to its end."""
    return seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)) * 1e3


def up(home: Path) -> tuple[float, float]:
    """Return seconds until `tidemill up` says that control plane and worker answer, and until it has ended after SIGTERM."""
    command = [PYTHON, "-m", "tidemill", "up", "--home", str(home), "--port", "0", "--serve-port", "0", "--json"]
    start = perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        ready = perf_counter() - start
        assert line, "tidemill up did not become ready; it says why above"
        assert json.loads(line)["url"]
        return ready, seconds(lambda: end(process))
    finally:
        end(process)
        process.stdout.close()


def main() -> None:
    """Measure and print."""
    told = options(__doc__)
    report = Report("door", "one fresh process each; `up` starts control plane, serving worker, controller and job worker", ("tidemill",))
    found = in_turns(told.rounds(15), {name: lambda command=command: call(command) for name, command in COMMANDS.items()})
    for name, values in found.items():
        report.add(name, "ms", values, against=None if name == BARE else BARE)
    fresh, again, ended = [], [], []
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as folder:
        for number in range(told.rounds(3)):
            home = Path(folder) / f"home-{number}"
            fresh.append(up(home)[0])
            if not told.quick:
                ready, end_s = up(home)
                again.append(ready)
                ended.append(end_s)
    report.add("tidemill up, new workspace, to ready", "s", fresh)
    if again:
        report.add("tidemill up, workspace there, to ready", "s", again)
        report.add("SIGTERM to the end of all processes", "s", ended)
    report.show(told)


if __name__ == "__main__":
    main()
