"""Tidemill beside other model servers: the same model, the same load, one core each, all in one run.

Each peer gets a virtual environment of its own, made once under the user's cache folder (XDG_CACHE_HOME), with the newest versions that pip
finds. In quick runs only those take part that need none.
"""

import json
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from time import perf_counter

import joblib
import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.measure import Options, Report, in_turns, options
from benchmarks.serving import trees
from tests.services import end, free_port
from tests.serving.plant import Plant

from tidemill.core.clock import wait_until
from tidemill.core.codec import encode
from tidemill.serving.config import VariantConfig
from tidemill.store.trees import put_tree

HERE = Path(__file__).parent
OURS, FLOOR = "tidemill", "the bare protocol"
CONNECTIONS, START_S = 16, 90.0


@dataclass(frozen=True)
class Peer:
    """A server: its script, where it answers, what it wants in an environment of its own (nothing: this one will do)."""

    name: str
    script: str
    path: str
    wants: tuple[str, ...] = ()
    own_model: bool = False  # another model than the others
    takes_inputs: bool = False  # MLflow's body instead of the Open Inference Protocol's


PEERS = (
    Peer(FLOOR, "bare.py", "/"),
    Peer("FastAPI by hand", "fastapi_by_hand.py", "/infer"),
    Peer("FastAPI, scikit-learn", "peers/fastapi_sklearn.py", "/infer", own_model=True),
    Peer("MLflow", "peers/mlflow_peer.py", "/invocations", ("mlflow", "onnx", "onnxruntime"), takes_inputs=True),
    Peer("BentoML", "peers/bentoml_peer.py", "/infer", ("bentoml", "onnxruntime")),
    Peer("MLServer", "peers/mlserver_peer.py", "/v2/models/trees/infer", ("mlserver", "onnxruntime")),
    Peer("LitServe", "peers/litserve_peer.py", "/predict", ("litserve", "onnxruntime")),
    Peer("Ray Serve", "peers/ray_serve_peer.py", "/", ("ray[serve]", "onnxruntime")),
    Peer("KServe's Python server", "peers/kserve_peer.py", "/v2/models/trees/infer", ("kserve", "onnxruntime")),
    Peer("Triton, Python backend", "peers/triton_peer.py", "/v2/models/trees/infer", ("nvidia-pytriton", "onnxruntime")),
)


class Target:
    """A server under load."""

    def __init__(self, port: int, path: str, body: bytes, process: psutil.Process, first_s: float) -> None:
        self.port, self.path, self.body, self.process, self.first_s = port, path, body, process, first_s

    def memory_mb(self) -> float:
        """Return the proportional memory of all its processes, where the system tells it."""
        whole = 0
        for each in (self.process, *self.process.children(recursive=True)):
            told = each.memory_full_info()
            whole += getattr(told, "pss", told.rss)
        return whole / 1e6


def environment(peer: Peer) -> tuple[Path, str]:
    """Return the Python that a peer runs in, made when it is not there yet, and which version it has. Raises CalledProcessError."""
    if not peer.wants:
        return Path(sys.executable), ""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tidemill-peers" / Path(peer.script).stem
    python = folder / "bin" / "python"
    if not (folder / "whole").exists():
        sys.stderr.write(f"installing {', '.join(peer.wants)} in {folder}\n")
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *peer.wants], check=True, capture_output=True, text=True)
        (folder / "whole").touch()
    wanted = peer.wants[0].partition("[")[0]
    found = [each.version for each in distributions(path=map(str, (folder / "lib").glob("python*/site-packages"))) if each.name == wanted]
    return python, f"{wanted} {found[0]}" if found else wanted


def asked(port: int, path: str, body: bytes) -> list[float] | None:
    """Return the scores that a server answers once, None while it does not."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            told = json.load(answer)
    except urllib.error.HTTPError as error:
        error.close()
        return None
    except OSError:
        return None
    scores = told["outputs"][0]["data"] if "outputs" in told else told["predictions"]
    while isinstance(scores, dict):  # MLflow names the output
        scores = next(iter(scores.values()))
    return [float(value) for value in np.ravel(scores)]


@contextmanager
def served(peer: Peer, python: Path, folder: Path, body: bytes) -> Iterator[Target | None]:
    """Run a peer on the servers' core until the block ends; None when it does not answer."""
    port = free_port()
    given = folder if peer.script.startswith("peers/") else folder / "model.onnx"
    command = trees.on_core(trees.SERVER_CORE, [str(python), str(HERE / peer.script), str(given), str(port)])
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    begin = perf_counter()
    with (folder / f"{Path(peer.script).stem}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=variables)
    try:
        wait_until(lambda: process.poll() is not None or asked(port, peer.path, body) is not None, timeout_s=START_S, every_s=0.02)
        took = perf_counter() - begin
        well = process.poll() is None and asked(port, peer.path, body) is not None
        yield Target(port, peer.path, body, psutil.Process(process.pid), took) if well else None
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        end(process)
        for child in children:  # what a peer leaves behind
            if child.is_running():
                child.kill()


@contextmanager
def worker(home: Path, model: bytes, output: str, body: bytes) -> Iterator[Target]:
    """Run one worker of ours on the servers' core, its journal on."""
    plant = Plant(home)
    bundle = put_tree(plant.objects, {"model.onnx": model, "model.json": encode(trees.spec(output))})
    plant.publish(plant.endpoint(VariantConfig(name="champion", model="trees", version=1, bundle=bundle), name="trees"))
    begin = perf_counter()
    with plant.worker() as caller:
        process = psutil.Process(caller.process.pid)
        for thread in process.threads() if hasattr(os, "sched_setaffinity") else ():
            os.sched_setaffinity(thread.id, {int(trees.SERVER_CORE)})
        assert asked(caller.port, "/v2/models/trees/infer", body) is not None
        yield Target(caller.port, "/v2/models/trees/infer", body, process, perf_counter() - begin)


def start(stack: ExitStack, report: Report, told: Options, folder: Path, model: bytes, output: str) -> dict[str, Target]:
    """Start all that can be had here; say which cannot."""
    body, rows = trees.open_inference(1), trees.rows(1)
    inputs = json.dumps({"inputs": [[float(f"{value:.6g}") for value in row] for row in rows]}).encode()
    targets = {OURS: stack.enter_context(worker(folder / "home", model, output, body))}
    expected = asked(targets[OURS].port, targets[OURS].path, body)
    for peer in PEERS:
        if peer.wants and told.quick:
            report.note(f"{peer.name}: not in quick runs")
            continue
        try:
            python, version = environment(peer)
        except (subprocess.CalledProcessError, OSError) as error:
            reason = str(getattr(error, "stderr", "") or error).strip().splitlines()[-1]
            report.note(f"{peer.name}: skipped, it could not be installed here ({reason[:150]})")
            continue
        target = stack.enter_context(served(peer, python, folder, inputs if peer.takes_inputs else body))
        if target is None:
            log = (folder / f"{Path(peer.script).stem}.log").read_text(errors="replace").strip().splitlines()
            report.note(f"{peer.name}: skipped, it did not answer here ({(log or ['it said nothing'])[-1][:150]})")
            continue
        if not peer.own_model:
            assert np.allclose(asked(target.port, target.path, target.body) or [], expected or [], atol=1e-4), (
                f"{peer.name} answers otherwise"
            )
        targets[f"{peer.name} ({version})" if version else peer.name] = target
    return targets


def main() -> None:
    """Measure and print."""
    told = options(__doc__)
    report = Report(
        "model servers",
        f"requests of one row over {CONNECTIONS} connections, wrk on the other core; 200 trees over {len(trees.COLUMNS)} numbers in ONNX "
        "Runtime under all but scikit-learn's (its own 200 trees); JSON; one server process or worker on one core, recommended settings; "
        "all are up, one is asked at a time",
        ("onnxruntime", "fastapi", "uvicorn", "scikit-learn"),
    )
    model, output = trees.model(trees=told.size(200, 5))
    with tempfile.TemporaryDirectory(prefix="tidemill-peers-") as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(model)
        joblib.dump(trees.sklearn_model(trees=told.size(200, 5)), folder / "model.joblib")
        targets = start(stack, report, told, folder, model, output)
        found: dict[str, list[tuple[float, ...]]] = {each: [] for each in targets}

        def load(each: str) -> float:
            target, for_s = targets[each], 0.1 if told.quick else 3.0
            found[each].append(trees.ask(target.port, target.path, target.body, connections=CONNECTIONS, for_s=for_s))
            return 0.0

        in_turns(told.rounds(3), {each: lambda each=each: load(each) for each in targets})
        for place, (figure, unit) in enumerate((("requests", "req/s"), ("p50", "ms"), ("p99", "ms"))):
            for each, values in found.items():
                against = f"{OURS}, {figure}" if each != OURS else None
                report.add(f"{each}, {figure}", unit, [value[place] for value in values], against=against)
        for each, target in targets.items():
            report.add(f"{each}, memory", "MB", [target.memory_mb()])
        for each, target in targets.items():
            report.add(f"{each}, command to first answer", "s", [target.first_s])
    report.show(told)


if __name__ == "__main__":
    main()
