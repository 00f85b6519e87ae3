"""The journal: frames survive what kills a writer, and a torn tail hides nothing else."""

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.core.codec import unpack
from tidemill.core.errors import Unavailable
from tidemill.serving.journal import (
    DAY_MICROS,
    JournalUnavailable,
    JournalWriter,
    LabelRecord,
    PredictionRecord,
    complete,
    endpoints_journaled,
    frames,
    predictions_folder,
    segments,
)


def record(*ids: str, at: int = 1) -> PredictionRecord:
    return PredictionRecord(
        at=at, received=at, ids=list(ids), columns={"a": [1.5] * len(ids)}, scores=[0.5] * len(ids), variant=[0] * len(ids),
        variants=[("champion", "m", 1)], shadow=False, latency_ms=0.1, trace_id="",
    )  # fmt: skip


def read(folder: Path) -> list[str]:
    found = []
    for path in segments(folder):
        for frame in frames(path.read_bytes()):
            if (payload := frame.payload()) is not None:
                found += unpack(payload, PredictionRecord).ids
    return found


def test_records_come_back_in_order(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path / "j", "0")
    for number in range(5):
        writer.append(record(f"{number}a", f"{number}b"), at=number)
    assert read(tmp_path / "j") == [f"{number}{letter}" for number in range(5) for letter in "ab"]
    (segment,) = segments(tmp_path / "j")
    assert not complete(segment)
    writer.sync()
    writer.close()
    assert complete(segment)
    assert [frame.at for frame in frames(segment.read_bytes(), lambda at: at > 2)] == [3, 4]


def test_nothing_is_made_before_the_first_record(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path / "j", "0")
    writer.sync()
    writer.close()
    assert not (tmp_path / "j").exists()
    assert segments(tmp_path / "j") == []


def test_segments_change_when_they_are_large_and_close_may_be_followed_by_more(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, "0", segment_bytes=500)
    ids = [str(number) for number in range(40)]
    for each in ids:
        writer.append(record(each), at=1)
    assert len(segments(tmp_path)) > 3
    writer.sync()  # full ones go to the disk beside whatever goes on
    assert [complete(path) for path in segments(tmp_path)].count(False) == 1
    writer.close()
    writer.append(record("after"), at=1)
    assert read(tmp_path) == [*ids, "after"]
    writer.close()


def test_a_later_day_of_event_time_begins_a_segment_and_an_earlier_one_does_not(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, "0")
    day = DAY_MICROS
    counts = []
    for at in (10 * day, 11 * day - 1, 11 * day, 10 * day, 11 * day + 5, 3 * day, 20 * day):
        writer.append(record(str(at)), at=at)
        counts.append(len(segments(tmp_path)))
    assert counts == [1, 1, 2, 2, 2, 2, 3]
    writer.sync()
    assert [complete(path) for path in segments(tmp_path)] == [True, True, False]
    writer.close()


def test_a_full_segment_that_does_not_reach_the_disk_is_told_by_the_next_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = JournalWriter(tmp_path, "0", segment_bytes=200)
    writer.append(record("a" * 300), at=1)
    real, full = os.fsync, segments(tmp_path)[0].stat().st_ino

    def broken(descriptor: int) -> None:
        if os.fstat(descriptor).st_ino == full:
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", broken)
    writer.append(record("b"), at=1)
    with pytest.raises(JournalUnavailable, match=r"cannot be written \(Input/output error\)"):
        writer.sync()
    writer.sync()
    writer.close()


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 2000), flip=st.integers(0, 2000))
def test_a_cut_loses_the_tail_only_and_a_flipped_byte_one_record_or_the_tail(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flip: int
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    writer = JournalWriter(folder, "0")
    ids = [f"id-{number}" for number in range(8)]
    for each in ids:
        writer.append(record(each), at=1)
    writer.close()
    (segment,) = segments(folder)
    whole = segment.read_bytes()
    segment.write_bytes(whole[: min(cut, len(whole))])
    kept = read(folder)
    assert kept == ids[: len(kept)]
    assert cut < len(whole) or kept == ids
    damaged = bytearray(whole)
    damaged[flip % len(whole)] ^= 0x40
    segment.write_bytes(bytes(damaged))
    left = read(folder)
    assert [each for each in ids if each in left] == left
    assert left != ids


def test_a_full_disk_acknowledges_nothing_and_the_journal_stays_whole(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, "0")
    writer.append(record("kept"), at=1)
    before, limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (segments(tmp_path)[0].stat().st_size + 50, limit))
    try:
        with pytest.raises(Unavailable, match="nothing was acknowledged, free some space"):
            writer.append(record("half"), at=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, limit))
    writer.append(record("later"), at=1)
    assert read(tmp_path) == ["kept", "later"]
    writer.close()


WRITER = """
import sys
from pathlib import Path
from tidemill.serving.journal import JournalWriter, PredictionRecord
writer = JournalWriter(Path(sys.argv[1]), "0")
for number in range(10**9):
    writer.append(PredictionRecord(at=1, received=1, ids=[str(number)], columns={"a": ["x" * 5000]}, scores=[0.5], variant=[0],
        variants=[("c", "m", 1)], shadow=False, latency_ms=0.1, trace_id=""), at=1)
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""


@pytest.mark.slow
def test_what_a_killed_process_confirmed_is_there(tmp_path: Path) -> None:
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            for _ in range(300):
                last = writer.stdout.readline()
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read().split(b"\n")[:-1]
        confirmed = int(rest[-1] if rest else last)
        newest = segments(tmp_path)[-1]
        assert complete(newest)
        found = [unpack(frame.payload() or b"", PredictionRecord).ids[0] for frame in frames(newest.read_bytes())]
        assert found[: confirmed + 1] == [str(number) for number in range(confirmed + 1)]


def test_endpoints_of_other_projects_have_folders_of_their_own(tmp_path: Path) -> None:
    for name in ("delay", "lab/delay"):
        writer = JournalWriter(predictions_folder(tmp_path, name), "0")
        writer.append(record("x"), at=1)
        writer.close()
    assert endpoints_journaled(tmp_path) == ["delay", "lab/delay"]
    assert endpoints_journaled(tmp_path / "nothing") == []


def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    writer = JournalWriter(tmp_path / "file" / "j", "0")
    with pytest.raises(Unavailable, match="cannot be written"):
        writer.append(LabelRecord(received=1, ids=["x"], values=[1.0], at=[1]), at=1)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
