"""The record format: cut anywhere it yields what stood before the cut; read from where it was left, while it grows."""

import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.client.spool import MAGIC, LaneReader, LaneWriter, empty, frame
from tidemill.core.errors import Invalid

RECORDS = st.lists(st.binary(min_size=1, max_size=40), max_size=8)


def read(folder: Path, **how: bool) -> list[bytes]:
    reader = LaneReader(folder, **how)
    found = []
    while (record := reader.next()) is not None:
        found.append(record[0])
    reader.close()
    return found


def write(folder: Path, records: list[bytes], **how: int) -> None:
    writer = LaneWriter(folder, **how)
    for record in records:
        writer.append(record)
    writer.close()


@given(RECORDS, st.data())
def test_a_lane_that_is_cut_anywhere_yields_a_prefix(records: list[bytes], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), records)
        segment = Path(name) / "00000001.seg"
        whole = segment.read_bytes() if records else MAGIC
        cut = data.draw(st.integers(0, len(whole)))
        segment.write_bytes(whole[:cut])
        ends = [len(MAGIC) + sum(len(frame(r)) for r in records[:n]) for n in range(len(records) + 1)]
        assert read(Path(name)) == records[: max((n for n, end in enumerate(ends) if end <= cut), default=0)]


@given(RECORDS.filter(bool), st.data())
def test_a_changed_byte_ends_the_lane_before_it(records: list[bytes], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), records)
        segment = Path(name) / "00000001.seg"
        whole = bytearray(segment.read_bytes())
        place = data.draw(st.integers(len(MAGIC), len(whole) - 1))
        whole[place] ^= data.draw(st.integers(1, 255))
        segment.write_bytes(whole)
        found = read(Path(name))
        assert found == records[: len(found)]
        assert len(found) < len(records)
        assert not empty(Path(name))


@given(st.binary(max_size=200))
def test_any_other_file_is_no_lane_and_no_trouble(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "00000001.seg").write_bytes(content)
        read(Path(name))
        (Path(name) / "00000001.seg").write_bytes(MAGIC + content)
        read(Path(name))


def test_zeros_behind_a_record_as_a_power_cut_leaves_them_are_no_records(tmp_path: Path) -> None:
    write(tmp_path, [b"one"])
    with (tmp_path / "00000001.seg").open("ab") as file:
        file.write(bytes(4096))
    assert read(tmp_path) == [b"one"]
    assert not empty(tmp_path)


def test_reading_goes_on_where_it_was_left_and_read_segments_go(tmp_path: Path) -> None:
    records = [bytes([number]) * 30 for number in range(1, 21)]
    write(tmp_path, records, segment_bytes=64)
    assert len(list(tmp_path.glob("*.seg"))) == 10
    reader = LaneReader(tmp_path)
    for record in records[:7]:
        found = reader.next()
        assert found is not None
        assert found[0] == record
        reader.take(found[1])
    assert len(list(tmp_path.glob("*.seg"))) == 7
    assert read(tmp_path) == records[7:]
    assert read(tmp_path, from_start=True) == records[6:]


def test_a_reader_follows_a_writer(tmp_path: Path) -> None:
    writer, reader = LaneWriter(tmp_path, segment_bytes=100), LaneReader(tmp_path)
    assert reader.next() is None
    for number in range(50):
        writer.append(b"%d" % number)
        found = reader.next()
        assert found is not None
        assert found[0] == b"%d" % number
        assert reader.next() is None
        reader.take(found[1])
    assert empty(tmp_path)
    assert len(list(tmp_path.glob("*.seg"))) == 1


def test_a_second_writer_goes_on_in_a_segment_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, [b"one"])
    with (tmp_path / "00000001.seg").open("ab") as file:
        file.write(b"cut")
    write(tmp_path, [b"two"])
    assert read(tmp_path) == [b"one", b"two"]


def test_a_damaged_note_of_what_was_taken_means_from_the_start(tmp_path: Path) -> None:
    write(tmp_path, [b"one"])
    (tmp_path / "taken").write_bytes(b"?")
    assert read(tmp_path) == [b"one"]


def test_a_record_of_no_size_or_of_too_much_is_refused() -> None:
    with pytest.raises(Invalid, match="a record of 0 bytes cannot be kept"):
        frame(b"")


def test_what_was_appended_outlives_the_process(tmp_path: Path) -> None:
    code = "import os, signal, sys; from pathlib import Path; from tidemill.client.spool import LaneWriter\n"
    code += "w = LaneWriter(Path(sys.argv[1]))\nfor n in range(1000): w.append(b'%d' % n)\nos.kill(os.getpid(), signal.SIGKILL)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert read(tmp_path) == [b"%d" % number for number in range(1000)]


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    writer = LaneWriter(tmp_path)
    writer.append(b"small")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            writer.append(os.urandom(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    writer.append(b"after")
    writer.close()
    assert read(tmp_path) == [b"small", b"after"]
