"""Answers wait until their records are where they have to be: written, or on the disk."""

import asyncio
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import pytest

from tidemill.core.codec import unpack
from tidemill.serving.background import Commit
from tidemill.serving.journal import JournalWriter, PredictionRecord, frames, segments
from tidemill.serving.metrics import Metrics


def record(unit: str) -> PredictionRecord:
    return PredictionRecord(
        at=1, received=1, ids=[unit], columns={"a": [1.0]}, scores=[0.5], variant=[0], variants=[("champion", "m", 1)], shadow=False,
        latency_ms=0.1, trace_id="",
    )  # fmt: skip


def ids_in(data: bytes) -> list[str]:
    payloads = [frame.payload() for frame in frames(data)]
    return [unit for payload in payloads if payload is not None for unit in unpack(payload, PredictionRecord).ids]


@pytest.mark.parametrize("seed", range(5))
def test_what_was_acknowledged_survives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """The disk of this test keeps what was there when a flush began, and nothing else: at every answer the power might go."""
    durable: dict[str, int] = {}

    def flush(descriptor: int, real: Callable[[int], None]) -> None:
        path, size = str(Path(f"/proc/self/fd/{descriptor}").readlink()), os.fstat(descriptor).st_size
        real(descriptor)
        durable[path] = max(size, durable.get(path, 0))

    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, partial(flush, real=getattr(os, name)))
    random, told, lost = Random(seed), [], []

    def survived() -> set[str]:
        files = {path: size for path, size in durable.items() if path.endswith(".seg")}
        return {unit for path, size in files.items() for unit in ids_in(Path(path).read_bytes()[:size])}

    async def main() -> None:
        writer = JournalWriter(tmp_path, "0", segment_bytes=5000)
        commit = Commit(asyncio.get_running_loop(), Metrics(tmp_path, 0), to_disk=True)

        def answered(unit: str, instead: object) -> None:
            told.append(unit)
            if instead is not None or unit not in survived():
                lost.append(unit)

        for burst in range(40):
            for number in range(random.randrange(1, 12)):
                unit = f"{burst}-{number}"
                writer.gather(record(unit), at=1)
                commit(writer, lambda instead, unit=unit: answered(unit, instead))
            await asyncio.sleep(random.choice([0, 0, 0.001, 0.005]))
        while commit.waiting:
            await asyncio.sleep(0.001)
        commit.close()
        writer.close()

    asyncio.run(main())
    assert not lost
    assert len(told) == len(set(told)) > 100
    assert len(durable) > 3, "the segment changed now and then"


def test_nobody_is_told_of_what_could_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replies: list[object] = []
    real = os.write

    async def main() -> None:
        writer = JournalWriter(tmp_path, "0")
        commit = Commit(asyncio.get_running_loop(), Metrics(tmp_path, 0), to_disk=False)
        for name in ("before", "refused", "refused too", "after"):
            if name == "refused":
                monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[: len(data) // 2]))
            if name == "after":
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                monkeypatch.setattr(os, "write", real)
            writer.gather(record(name), at=1)
            commit(writer, replies.append)
            if name == "before":
                await asyncio.sleep(0)
                await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        writer.close()

    asyncio.run(main())
    assert [type(reply).__name__ for reply in replies] == ["NoneType", "JournalUnavailable", "JournalUnavailable", "NoneType"]
    assert ids_in(segments(tmp_path)[0].read_bytes()) == ["before", "after"]
