"""Artifacts: streams in and out of the object store, cut connections, ranges, listings; with MLflow's client and by hand."""

import os
import pickle
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

mlflow = pytest.importorskip("mlflow")

from tests.server.mlflow.conftest import Served  # noqa: E402
from tidemill.core.clock import wait_until  # noqa: E402
from tidemill.govern.workspace import open_workspace  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore")]
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
MIB = 1 << 20


@pytest.fixture
def client(tidemill: Served) -> Any:
    return mlflow.MlflowClient(tracking_uri=tidemill.url)


@pytest.fixture
def run(client: Any) -> str:
    return client.create_run("0").info.run_id


def folder(tidemill: Served, run: str) -> str:
    return f"{tidemill.url}{ARTIFACTS}/0/{run}/artifacts"


def left_over(tidemill: Served) -> list[str]:
    return [str(path) for name in ("tmp", "uploads") for path in (tidemill.home / ".tidemill" / name).rglob("*") if path.is_file()]


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 5 * MIB + 7])
def test_files_of_every_size_come_back_as_they_went(client: Any, run: str, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "weights é.bin").write_bytes(data)
    client.log_artifact(run, str(tmp_path / "in" / "weights é.bin"), "model")
    (found,) = client.list_artifacts(run, "model")
    assert (found.path, found.file_size, found.is_dir) == ("model/weights é.bin", size, False)
    back = client.download_artifacts(run, "model/weights é.bin", str(tmp_path))
    assert Path(back).read_bytes() == data


def test_folders_go_and_come_whole(client: Any, run: str, tmp_path: Path) -> None:
    given = {"a.txt": b"a", "deep/er/b.bin": b"b" * 70_000, "deep/c": b"", "MLmodel": b"flavors: {}\n", "über &=% +.txt": b"odd"}
    for name, data in given.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    client.log_artifacts(run, str(tmp_path / "in"), "all")
    (tmp_path / "out").mkdir()
    out = Path(client.download_artifacts(run, "all", str(tmp_path / "out")))
    assert {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()} == given
    assert [(item.path, item.is_dir) for item in client.list_artifacts(run, "all")] == [
        ("all/MLmodel", False), ("all/a.txt", False), ("all/deep", True), ("all/über &=% +.txt", False),
    ]  # fmt: skip


def test_a_file_logged_again_replaces_the_first(tidemill: Served, run: str) -> None:
    for data in (b"one", b"other"):
        assert requests.put(folder(tidemill, run) + "/x", data=data, timeout=10).status_code == 200
    assert requests.get(folder(tidemill, run) + "/x", timeout=10).content == b"other"


@pytest.mark.parametrize("size", [100, 3 * MIB])
@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [("bytes=0-9", 0, 9), ("bytes=10-", 10, None), ("bytes=-5", -5, None), ("bytes=50-999999999", 50, None), ("bytes=0-0", 0, 0)],
)
def test_ranges_are_served(tidemill: Served, run: str, size: int, asked: str, first: int, last: int | None) -> None:
    data = os.urandom(size)
    requests.put(folder(tidemill, run) + "/x", data=data, timeout=10)
    answer = requests.get(folder(tidemill, run) + "/x", headers={"Range": asked}, timeout=10)
    wanted = data[first:] if last is None else data[first : last + 1]
    start = size + first if first < 0 else first
    assert (answer.status_code, answer.content) == (206, wanted)
    assert answer.headers["content-range"] == f"bytes {start}-{start + len(wanted) - 1}/{size}"


@pytest.mark.parametrize("asked", ["bytes=100-", "bytes=5-2", "bytes=-", "lines=1-2", "bytes=0-1,3-4"])
def test_ranges_outside_a_file_are_refused(tidemill: Served, run: str, asked: str) -> None:
    requests.put(folder(tidemill, run) + "/x", data=b"x" * 100, timeout=10)
    answer = requests.get(folder(tidemill, run) + "/x", headers={"Range": asked}, timeout=10)
    assert answer.status_code == 416
    assert "does not lie in a file of 100 bytes; ask for one such as bytes=0-99" in answer.json()["message"]


def test_browsers_save_files_and_never_show_them(tidemill: Served, run: str) -> None:
    requests.put(folder(tidemill, run) + "/page.html", data=b"<script>", timeout=10)
    answer = requests.get(folder(tidemill, run) + "/page.html", timeout=10)
    assert answer.headers["content-disposition"].startswith('attachment; filename="page.html"')
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("sent", [0, 1000, 3 * MIB])
def test_a_cut_connection_leaves_nothing(tidemill: Served, client: Any, run: str, sent: int) -> None:
    place = urlsplit(tidemill.url)
    with socket.create_connection((place.hostname, place.port)) as connection:
        path = urlsplit(folder(tidemill, run) + "/half").path
        head = f"PUT {path} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Length: {8 * MIB}\r\n\r\n"
        connection.sendall(head.encode() + os.urandom(sent))
        if sent > MIB:
            assert wait_until(lambda: bool(left_over(tidemill)), timeout_s=10)
    assert wait_until(lambda: left_over(tidemill) == [], timeout_s=10)
    assert client.list_artifacts(run) == []
    assert requests.get(tidemill.url + "/readyz", timeout=10).status_code == 200


def test_a_body_without_a_length_is_taken_in_pieces(tidemill: Served, run: str) -> None:
    pieces = [os.urandom(700_000) for _ in range(6)]
    assert requests.put(folder(tidemill, run) + "/x", data=iter(pieces), timeout=10).status_code == 200
    assert requests.get(folder(tidemill, run) + "/x", timeout=10).content == b"".join(pieces)


def test_memory_stays_small_however_large_a_file_is(tidemill: Served, client: Any, run: str, tmp_path: Path) -> None:
    def largest() -> int:
        lines = Path(f"/proc/{tidemill.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024

    before = largest()
    with (tmp_path / "large").open("wb") as file:
        for _ in range(25):
            file.write(os.urandom(8 * MIB))
    client.log_artifact(run, str(tmp_path / "large"))
    (tmp_path / "back").mkdir()
    back = client.download_artifacts(run, "large", str(tmp_path / "back"))
    assert Path(back).read_bytes() == (tmp_path / "large").read_bytes()
    assert largest() - before < 50 * MIB


def test_what_is_there_already_takes_no_room(tidemill: Served, run: str) -> None:
    def objects() -> int:
        with open_workspace(tidemill.home) as ws:
            return len(list(ws.objects.digests()))

    data = os.urandom(2 * MIB)
    requests.put(folder(tidemill, run) + "/x", data=data, timeout=10)
    before = objects()
    requests.put(folder(tidemill, run) + "/y", data=data, timeout=10)
    assert objects() == before


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.place),)


def test_nothing_is_unpickled(tidemill: Served, client: Any, run: str, tmp_path: Path) -> None:
    data = pickle.dumps(Trap(tmp_path / "sprung"))
    for name in ("model/model.pkl", "model/python_model.pkl", "model/MLmodel", "model/requirements.txt"):
        text = b"flavors:\n  sklearn:\n    pickled_model: model.pkl\n  python_function:\n    loader_module: mlflow.sklearn\n"
        requests.put(f"{folder(tidemill, run)}/{name}", data=text if name.endswith("MLmodel") else data, timeout=10)
    client.create_registered_model("trap")
    version = client.create_model_version("trap", f"runs:/{run}/model", run_id=run)
    assert client.get_model_version("trap", version.version).status == "READY"
    assert not (tmp_path / "sprung").exists()


def test_other_ways_to_the_same_files(tidemill: Served, client: Any, run: str) -> None:
    requests.put(folder(tidemill, run) + "/deep/x.txt", data=b"text", timeout=10)
    answer = requests.get(tidemill.url + "/get-artifact", params={"run_id": run, "path": "deep/x.txt"}, timeout=10)
    assert (answer.content, answer.headers["content-type"]) == (b"text", "text/plain")
    listed = requests.get(tidemill.url + "/api/2.0/mlflow/artifacts/list", params={"run_id": run, "path": "deep"}, timeout=10).json()
    assert listed == {
        "root_uri": f"mlflow-artifacts:/0/{run}/artifacts",
        "files": [{"path": "deep/x.txt", "is_dir": False, "file_size": 4}],
    }
    model = client.create_logged_model("0", name="net")
    place = f"{tidemill.url}{ARTIFACTS}/0/models/{model.model_id}/artifacts"
    requests.put(place + "/code/model.py", data=b"pass", timeout=10)
    files = f"{tidemill.url}/ajax-api/2.0/mlflow/logged-models/{model.model_id}/artifacts/files"
    assert requests.get(files, params={"artifact_file_path": "code/model.py"}, timeout=10).content == b"pass"
    assert requests.delete(folder(tidemill, run) + "/deep", timeout=10).status_code == 200
    assert client.list_artifacts(run) == []
    answer = requests.get(folder(tidemill, run) + "/deep/x.txt", timeout=10)
    assert (answer.status_code, answer.json()["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")
