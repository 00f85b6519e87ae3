"""Uploads in parts and addresses that need no key: any order, again, cut, forged, over."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

mlflow = pytest.importorskip("mlflow")

from tests.server.mlflow.conftest import Served  # noqa: E402
from tidemill.core.clock import wait_until, wall  # noqa: E402
from tidemill.server.mlflow.tickets import Ticket, issue  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore")]
API = "/api/2.0/mlflow-artifacts"
MIB = 1 << 20


@pytest.fixture
def run(tidemill: Served) -> str:
    return mlflow.MlflowClient(tracking_uri=tidemill.url).create_run("0").info.run_id


class Upload:
    """An upload in parts of one file of a run."""

    def __init__(self, tidemill: Served, run: str, parts: int, name: str = "large.bin") -> None:
        self.place, self.name, self.file = f"0/{run}/artifacts", name, f"{tidemill.url}{API}/artifacts/0/{run}/artifacts/{name}"
        self.url = tidemill.url
        made = self.post("create", num_parts=parts)
        assert made.status_code == 200, made.text
        self.id, credentials = made.json()["upload_id"], made.json()["credentials"]
        self.addresses = {item["part_number"]: item["url"] for item in credentials}
        self.tags: dict[int, str] = {}

    def post(self, act: str, **body: Any) -> requests.Response:
        return requests.post(f"{self.url}{API}/mpu/{act}/{self.place}", json={"path": f"/home/me/{self.name}", **body}, timeout=30)

    def put(self, number: int, data: bytes) -> requests.Response:
        answer = requests.put(self.addresses[number], data=data, timeout=30)
        if answer.ok:
            self.tags[number] = answer.headers["etag"]
        return answer

    def complete(self, tags: dict[int, str] | None = None) -> requests.Response:
        parts = [{"part_number": number, "etag": tag, "url": ""} for number, tag in (self.tags if tags is None else tags).items()]
        return self.post("complete", upload_id=self.id, parts=parts)

    def abort(self) -> requests.Response:
        return self.post("abort", upload_id=self.id)


def told(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error_code"]


def test_parts_come_in_any_order_and_again(tidemill: Served, run: str) -> None:
    pieces = {1: os.urandom(2 * MIB), 2: os.urandom(10), 3: os.urandom(3 * MIB), 11: os.urandom(5)}
    upload = Upload(tidemill, run, 11)
    pieces |= {number: bytes([number]) for number in range(4, 11)}
    for number in (11, 3, 2, 1, 10, 9, 8, 7, 6, 5, 4):
        assert upload.put(number, pieces[number]).status_code == 200
    upload.put(3, b"something else")
    upload.put(3, pieces[3])
    assert requests.get(upload.file, timeout=10).status_code == 404
    assert upload.complete().json() == {}
    assert requests.get(upload.file, timeout=10).content == b"".join(pieces[number] for number in sorted(pieces))
    assert upload.complete().json() == {}
    assert [path.name for path in (tidemill.home / ".tidemill" / "uploads" / upload.id).iterdir()] == ["upload.json"]


def test_what_did_not_arrive_is_told_and_can_be_sent_then(tidemill: Served, run: str) -> None:
    upload = Upload(tidemill, run, 3)
    upload.put(1, b"one")
    upload.put(3, b"three")
    missing = upload.complete({**upload.tags, 2: "x"})
    assert told(missing) == (400, "INVALID_PARAMETER_VALUE")
    assert "part 2 did not arrive; send the part again, then complete the upload again" in missing.json()["message"]
    assert "not numbered 1, 2, 3" in upload.complete().json()["message"]
    upload.put(2, b"two")
    assert "part 2 has the tag" in upload.complete({**upload.tags, 2: "x"}).json()["message"]
    assert upload.complete().status_code == 200
    assert requests.get(upload.file, timeout=10).content == b"onetwothree"


def test_a_part_that_is_cut_off_is_no_part(tidemill: Served, run: str) -> None:
    upload = Upload(tidemill, run, 1)
    place = urlsplit(upload.addresses[1])
    with socket.create_connection((place.hostname, place.port)) as connection:
        head = f"PUT {place.path} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Length: {8 * MIB}\r\n\r\n"
        connection.sendall(head.encode() + os.urandom(3 * MIB))
    folder = tidemill.home / ".tidemill" / "uploads" / upload.id
    assert wait_until(lambda: [path.name for path in folder.iterdir()] == ["upload.json"], timeout_s=10)
    assert "part 1 did not arrive" in upload.complete({1: ""}).json()["message"]
    upload.put(1, b"whole")
    assert upload.complete().status_code == 200


def test_a_part_that_the_disk_lost_is_told(tidemill: Served, run: str) -> None:
    upload = Upload(tidemill, run, 1)
    upload.put(1, b"x" * 5000)
    (part,) = (tidemill.home / ".tidemill" / "uploads" / upload.id).glob("00001-*")
    os.truncate(part, 100)
    assert "part 1 is not on the disk as it arrived; send the part again" in upload.complete().json()["message"]
    upload.put(1, b"x" * 5000)
    assert upload.complete().status_code == 200


def test_an_upload_that_was_given_up_is_gone(tidemill: Served, run: str) -> None:
    upload = Upload(tidemill, run, 2)
    upload.put(1, b"one")
    assert upload.abort().json() == {}
    assert not (tidemill.home / ".tidemill" / "uploads" / upload.id).exists()
    for answer in (upload.put(2, b"two"), upload.complete(), upload.abort()):
        assert told(answer) == (404, "RESOURCE_DOES_NOT_EXIST")
    assert requests.get(upload.file, timeout=10).status_code == 404


@pytest.mark.parametrize("parts", [0, -1, 10_001])
def test_uploads_have_a_number_of_parts(tidemill: Served, run: str, parts: int) -> None:
    with pytest.raises(AssertionError, match="num_parts must be between 1 and 10000"):
        Upload(tidemill, run, parts)


def test_addresses_work_for_what_they_were_given_for_alone(tidemill: Served, run: str) -> None:
    first, second = Upload(tidemill, run, 1), Upload(tidemill, run, 2, "other.bin")
    ticket = first.addresses[1].rpartition("/")[2]
    beyond = first.addresses[1].replace("/part/1/", "/part/2/")
    assert "announced with 1 parts; there is no part 2" in requests.put(beyond, data=b"x", timeout=10).json()["message"]
    flipped = ticket[:-2] + ("A" if ticket[-2] != "A" else "B") + ticket[-1]
    for address in (
        first.addresses[1].replace(ticket, flipped),
        first.addresses[1].replace(ticket, "nothing"),
        first.addresses[1].replace(ticket, "é"),
        f"{tidemill.url}/api/2.0/mlflow-artifacts/signed/{ticket}",
    ):
        assert told(requests.put(address, data=b"x", timeout=10)) == (403, "PERMISSION_DENIED")
    assert told(second.post("complete", upload_id=first.id, parts=[])) == (404, "RESOURCE_DOES_NOT_EXIST")
    assert told(second.post("complete", upload_id="../" + first.id, parts=[])) == (404, "RESOURCE_DOES_NOT_EXIST")


def test_addresses_end(tidemill: Served, run: str) -> None:
    state, place = tidemill.home / ".tidemill", f"0/{run}/artifacts/x"
    for ends, status in ((int(wall()) + 60, 200), (int(wall()) - 1, 403)):
        ticket = issue(state, Ticket(act="put", project="default", actor="owner", subject=place, ends=ends))
        assert requests.put(f"{tidemill.url}{API}/signed/{ticket}", data=b"x", timeout=10).status_code == status


def test_the_secret_of_addresses_is_the_servers_alone(tidemill: Served, run: str) -> None:
    Upload(tidemill, run, 1)
    secret = tidemill.home / ".tidemill" / "tickets.key"
    assert (len(secret.read_bytes()), secret.stat().st_mode & 0o777) == (32, 0o600)


@pytest.mark.parametrize("owner", ["run", "model"])
def test_files_go_and_come_by_addresses_of_their_own(tidemill: Served, run: str, owner: str) -> None:
    model = mlflow.MlflowClient(tracking_uri=tidemill.url).create_logged_model("0", name="net").model_id
    whose = {"run_id": run} if owner == "run" else {"model_id": model}
    post = f"{tidemill.url}/api/2.0/mlflow/artifacts"
    put = requests.post(post + "/presigned-upload-url", json={**whose, "path": "a/b.bin"}, timeout=10).json()
    assert requests.put(put["presigned_url"], data=b"data" * MIB, timeout=10).status_code == 200
    got = requests.post(post + "/presigned-download-url", json={**whose, "path": "a/b.bin", "expiration": 5}, timeout=10).json()
    assert got["file_size"] == 4 * MIB
    assert requests.get(got["presigned_url"], timeout=10).content == b"data" * MIB
    assert requests.get(got["presigned_url"], headers={"Range": "bytes=4-7"}, timeout=10).content == b"data"
    assert requests.put(got["presigned_url"], data=b"x", timeout=10).status_code == 403
    for body in ({**whose, "path": "../x"}, {**whose, "path": ""}, {"path": "x"}, {"run_id": run, "model_id": model, "path": "x"},
                 {**whose, "path": "x", "expiration": 0}):  # fmt: skip
        assert told(requests.post(post + "/presigned-upload-url", json=body, timeout=10)) == (400, "INVALID_PARAMETER_VALUE")
    unknown = requests.post(post + "/presigned-download-url", json={**whose, "path": "none"}, timeout=10)
    assert told(unknown) == (404, "RESOURCE_DOES_NOT_EXIST")


SCRIPT = """
import sys, os, mlflow
client = mlflow.MlflowClient()
run = client.create_run("0").info.run_id
client.log_artifact(run, sys.argv[1], "deep")
back = client.download_artifacts(run, "deep/large.bin", sys.argv[2])
assert open(back, "rb").read() == open(sys.argv[1], "rb").read()
"""


def test_mlflows_client_sends_parts_and_gets_ranges_when_it_is_told_to(tidemill: Served, tmp_path: Path) -> None:
    (tmp_path / "large.bin").write_bytes(os.urandom(23 * MIB))
    (tmp_path / "back").mkdir()
    environment = {
        **os.environ, "MLFLOW_TRACKING_URI": tidemill.url, "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "true",
        "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "true", "MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE": str(10 * MIB),
        "MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE": str(5 * MIB), "MLFLOW_MULTIPART_DOWNLOAD_MINIMUM_FILE_SIZE": str(10 * MIB),
        "MLFLOW_MULTIPART_DOWNLOAD_CHUNK_SIZE": str(5 * MIB),
    }  # fmt: skip
    done = len(list((tidemill.home / ".tidemill" / "uploads").glob("*")))
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path / "large.bin"), str(tmp_path / "back")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert len(list((tidemill.home / ".tidemill" / "uploads").glob("*"))) == done + 1
