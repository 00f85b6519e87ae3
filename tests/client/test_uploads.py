"""Large files go up in parts: a cut connection costs one part, the server's memory stays small, and what it has is not sent again."""

import os
import random
from pathlib import Path

import psutil
import pytest

import tidemill as tm
from tests.client.conftest import Plane
from tests.client.faults import Proxy
from tidemill.client.call import Caller
from tidemill.client.client import Client, connect
from tidemill.client.uploads import COPIED_BYTES_MAX, PART_BYTES, PARTS_MAX, FileChanged, at_once, digests, keep_bytes, send_file
from tidemill.core.digest import digest_bytes, digest_file
from tidemill.core.errors import NotFound

MB = 1 << 20


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file of more than the copied size that has no two equal parts."""
    return write(tmp_path / "large.bin", COPIED_BYTES_MAX + 5 * MB)


def write(path: Path, size: int) -> Path:
    source = random.Random(size)
    with path.open("wb") as file:
        for start in range(0, size, MB):
            file.write(source.randbytes(min(MB, size - start)))
    return path


def peak_bytes(process: int) -> int:
    """Return the most memory that a process has had; where only Linux tells, what it has now."""
    status = Path(f"/proc/{process}/status")
    if not status.exists():
        return psutil.Process(process).memory_info().rss
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))


def run_of(client: Client) -> str:
    return client.runs.start("delay", "r")["id"]


@pytest.mark.slow
def test_a_large_file_arrives_though_the_connection_is_cut(plane: Plane, proxy: Proxy, remote: Client, large: Path, runs: Path) -> None:
    assert plane.process is not None
    idle = peak_bytes(plane.process.pid)
    with connect(proxy.url) as client, tm.run("delay", client=client, capture=False) as run:
        run.flush()
        proxy.cut_requests = [20 * MB, 5 * MB, 30 * MB]
        run.file(large)
        large.rename(large.with_name("elsewhere"))  # what is under way stays what it was
        run.flush()
        peak = peak_bytes(plane.process.pid)
    assert proxy.cuts == 3
    size = COPIED_BYTES_MAX + 5 * MB
    # Each cut costs the part under way, not the file; four parts are under way at once, and each may be cut.
    assert proxy.passed_up < size + 3 * PART_BYTES + 2 * MB
    (kept,) = remote.runs.get(run.id)["artifacts"]
    assert (kept["path"], kept["size_bytes"], kept["digest"]) == ("large.bin", size, digest_file(large.with_name("elsewhere")))
    assert peak - idle < 50 * MB  # less than the file
    assert list(runs.iterdir()) == []


@pytest.mark.slow
def test_what_the_server_has_is_not_sent_again(proxy: Proxy, remote: Client, large: Path) -> None:
    with connect(proxy.url) as client:
        for sent in (True, False):
            before = proxy.passed_up
            with tm.run("delay", client=client, capture=False) as run:
                run.file(large, "a/b.bin")
            assert (proxy.passed_up - before > large.stat().st_size) == sent
            assert remote.runs.get(run.id)["artifacts"][0]["path"] == "a/b.bin"


@pytest.mark.slow
def test_many_small_files_go_up_side_by_side(remote: Client, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for number in range(300):
        (tmp_path / "out" / f"{number}.txt").write_text(str(number))
    with tm.run("delay", client=remote, capture=False) as run:
        assert run.folder(tmp_path / "out") == 300
    assert len(remote.runs.get(run.id)["artifacts"]) == 300
    assert remote.runs.artifact(run.id, "299.txt") == b"299"


def test_a_part_that_was_sent_before_is_not_asked_for(client: Client, tmp_path: Path) -> None:
    path = write(tmp_path / "f", PART_BYTES + 10)
    with path.open("rb") as file:
        whole, parts, part_bytes = digests(file, PART_BYTES + 10)
        assert (whole, part_bytes, [length for _, length in parts]) == (digest_file(path), PART_BYTES, [PART_BYTES, 10])
        client.caller.upload("PUT", f"/file-parts/{parts[0][0]}", path.read_bytes()[:PART_BYTES])
        run = run_of(client)
        body = {"path": "f", "digest": whole, "size_bytes": PART_BYTES + 10, "parts": [digest for digest, _ in parts]}
        assert client.caller.post(f"/runs/{run}/files", body)["missing"] == [parts[1][0]]
        kept = send_file(client.caller, f"/runs/{run}", "f", file)
    assert (kept["path"], kept["size_bytes"], kept["digest"]) == ("f", PART_BYTES + 10, whole)


def test_a_file_that_is_written_to_while_it_is_sent_is_told_so(client: Client, tmp_path: Path) -> None:
    path = write(tmp_path / "f", PART_BYTES + 10)

    class Meddling(Caller):
        """Somebody writes to the file between two requests."""

        def post(self, *args: object, **more: object) -> object:
            with path.open("r+b") as file:
                file.write(os.urandom(8))
            return super().post(*args, **more)  # type: ignore[arg-type]

    with path.open("rb") as file, pytest.raises(FileChanged, match="file f changed while it was sent; log it when nobody writes to it"):
        send_file(Meddling(client.transport, "default"), f"/runs/{run_of(client)}", "f", file)


def test_parts_grow_with_the_file_so_that_their_list_stays_short(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(3 * PART_BYTES + 1)
    with path.open("rb") as file:
        assert [length for _, length in digests(file, 3 * PART_BYTES + 1)[1]] == [PART_BYTES] * 3 + [1]
    assert -(-(1 << 40) // PARTS_MAX) > PART_BYTES  # a terabyte


def test_the_first_error_of_several_threads_is_raised_and_ends_the_rest() -> None:
    done: list[int] = []

    def act(number: int) -> None:
        if number == 3:
            raise NotFound("three")
        done.append(number)

    with pytest.raises(NotFound, match="three"):
        at_once(range(1000), act)
    assert len(done) < 1000
    at_once([], act)


def test_kept_bytes_are_named_by_their_digest(tmp_path: Path) -> None:
    assert keep_bytes(tmp_path / "objects", b"tide") == digest_bytes(b"tide")
    assert [path.name for path in (tmp_path / "objects").iterdir()] == [digest_bytes(b"tide")]
