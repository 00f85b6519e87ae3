"""Records get to where they go: in order, once noted, however long nobody answers, and whatever the disk says."""

import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Lock

import pytest

from tidemill.client.courier import FAILURES_MAX, Courier
from tidemill.client.spool import LaneReader, empty
from tidemill.core.clock import wait_until
from tidemill.core.errors import Invalid, NotPermitted, TidemillError, Unavailable


class Post:
    """Takes records, and says no as it is told."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.errors: list[TidemillError] = []
        self.open = Event()
        self.open.set()
        self._lock = Lock()

    def __call__(self, record: bytes) -> None:
        self.open.wait(20)
        with self._lock:
            if self.errors:
                raise self.errors.pop(0)
            self.taken.append(record)


def numbers(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def test_records_arrive_in_order_and_are_noted(tmp_path: Path) -> None:
    post = Post()
    courier = Courier(tmp_path / "lane", post)
    for record in numbers(500):
        courier.put(record)
    progress = courier.wait(20)
    assert (progress.kept, progress.settled, progress.waiting) == (500, 500, 0)
    assert post.taken == numbers(500)
    courier.stop()
    assert empty(tmp_path / "lane")


def test_several_workers_take_everything_once_and_note_only_what_all_before_has_arrived(tmp_path: Path) -> None:
    post = Post()
    courier = Courier(tmp_path / "lane", post, workers=4)
    for record in numbers(200):
        courier.put(record)
    assert courier.wait(20).waiting == 0
    assert sorted(post.taken, key=int) == numbers(200)
    courier.stop()
    assert empty(tmp_path / "lane")


def test_who_is_away_is_asked_again_and_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    post = Post()
    post.errors = [Unavailable("nobody there"), NotPermitted("not you"), Unavailable("nobody there")]
    courier = Courier(tmp_path / "lane", post)
    for record in numbers(3):
        courier.put(record)
    while courier.wait(0.01).waiting:  # waiting makes it try again at once
        pass
    assert post.taken == numbers(3)
    assert [record.message for record in caplog.records] == [
        f"nobody there; what is logged lies in {tmp_path / 'lane'} and goes there when it answers again"
    ]
    courier.stop()


def test_whoever_leaves_does_not_wait_for_ever(tmp_path: Path) -> None:
    post = Post()
    post.errors = [Unavailable("nobody there")] * 1000
    courier = Courier(tmp_path / "lane", post)
    courier.put(b"0")
    progress = courier.wait(60, while_away=False)
    assert (progress.waiting, str(progress.away)) == (1, "nobody there")
    courier.stop()
    reader = LaneReader(tmp_path / "lane")
    assert reader.next() is not None
    reader.close()


def test_what_can_never_be_taken_is_set_aside_and_the_rest_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    post = Post()
    post.errors = [Invalid("no such metric"), Invalid("nor that")]
    courier = Courier(tmp_path / "lane", post)
    for record in numbers(4):
        courier.put(record)
    progress = courier.wait(20)
    assert (progress.waiting, progress.refused, str(progress.refusal)) == (0, 2, "no such metric")
    assert post.taken == [b"2", b"3"]
    assert len(caplog.records) == 1
    reader = LaneReader(tmp_path / "lane" / "refused")
    assert [reader.next()[0], reader.next()[0]] == [b"0", b"1"]  # type: ignore[index]
    reader.close()
    courier.stop()


def test_a_server_that_stumbles_over_one_record_for_ever_does_not_hold_up_the_rest(tmp_path: Path) -> None:
    post = Post()
    post.errors = [TidemillError("the server failed")] * FAILURES_MAX
    courier = Courier(tmp_path / "lane", post)
    for record in numbers(2):
        courier.put(record)
    while courier.wait(0.01).waiting:
        pass
    assert post.taken == [b"1"]
    assert courier.progress().refused == 1
    courier.stop()


def test_a_fault_of_our_own_ends_no_thread(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    faults = [KeyError("what")]

    def deliver(_: bytes) -> None:
        if faults:
            raise faults.pop()

    courier = Courier(tmp_path / "lane", deliver)
    for record in numbers(2):
        courier.put(record)
    assert courier.wait(20).waiting == 0
    assert courier.progress().refused == 1
    assert "could not be sent" in caplog.text
    courier.stop()


def test_without_anybody_to_deliver_to_records_are_kept(tmp_path: Path) -> None:
    courier = Courier(tmp_path / "lane", None)
    courier.put(b"0")
    assert courier.wait(0.01).waiting == 1
    courier.stop()
    assert not empty(tmp_path / "lane")


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow: what a full disk does, for this process alone."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_loses_nothing_and_keeps_the_order(tmp_path: Path) -> None:
    post = Post()
    post.open.clear()
    courier = Courier(tmp_path / "lane", post)
    courier.put(b"0")
    with full_disk():
        for record in numbers(5)[1:]:
            courier.put(record)
        post.open.set()
        assert wait_until(lambda: len(post.taken) == 5, timeout_s=20)
    courier.put(b"5")
    assert courier.wait(20).waiting == 0
    assert post.taken == numbers(6)
    courier.stop()


def test_what_waited_in_memory_goes_to_disk_when_that_has_room_again(tmp_path: Path) -> None:
    post = Post()
    post.open.clear()
    courier = Courier(tmp_path / "lane", post)
    courier.put(b"0")
    with full_disk():
        courier.put(b"1")
        courier.put(b"2")
    courier.stop()
    reader = LaneReader(tmp_path / "lane")
    found = []
    while (record := reader.next()) is not None:
        found.append(record[0])
    reader.close()
    post.open.set()
    assert found == numbers(3)


def test_a_thread_that_nobody_ended_does_not_keep_a_program_alive(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from tidemill.client.courier import Courier\n"
    code += "def never(record):\n    import time; time.sleep(1000)\nCourier(Path(sys.argv[1]), never).put(b'0')"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "lane")], check=True, timeout=30)
