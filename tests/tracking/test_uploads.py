"""Files that come to a run whole or in parts: only what is missing is asked for, and nothing is kept that is not what it was said to be."""

import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import func, select

from tests import world
from tidemill.core.digest import digest_bytes
from tidemill.core.errors import Invalid
from tidemill.core.ids import Digest
from tidemill.govern.roles import ActionRefused
from tidemill.govern.workspace import Workspace, create_project
from tidemill.tracking.files import FILES, PathRefused
from tidemill.tracking.runs import Run, RunInTrash, RunNotFound, delete_run, read_run, start_run
from tidemill.tracking.uploads import (
    ArtifactNotFound,
    PartDiffers,
    Receipt,
    find_artifact,
    keep_artifact,
    keep_part,
    keep_whole,
    sweep_parts,
)

PARTS = [random.Random(number).randbytes(3000) for number in range(4)]
WHOLE = b"".join(PARTS)
DIGESTS = [digest_bytes(part) for part in PARTS]


def body(ws: Workspace, data: bytes) -> Path:
    """A file as a request leaves it."""
    folder = ws.state / "tmp"
    folder.mkdir(exist_ok=True)
    path = folder / f"body-{os.urandom(4).hex()}"
    path.write_bytes(data)
    return path


def keep(ws: Workspace, run: Run, path: str = "big.bin", *, whole: bytes = WHOLE, parts: list[Digest] = DIGESTS) -> Receipt:
    return keep_whole(ws, run.id, path, digest_bytes(whole), len(whole), parts)


def test_a_file_in_parts_is_whole_when_the_last_one_is_there(any_ws: Workspace) -> None:
    run = start_run(any_ws, "delay", name="r")
    assert keep(any_ws, run) == Receipt(missing=tuple(DIGESTS))
    for number in (2, 0):
        keep_part(any_ws, DIGESTS[number], body(any_ws, PARTS[number]))
    assert keep(any_ws, run).missing == (DIGESTS[1], DIGESTS[3])
    for number in (1, 3):
        keep_part(any_ws, DIGESTS[number], body(any_ws, PARTS[number]))
    receipt = keep(any_ws, run)
    assert receipt.missing == ()
    assert receipt.file is not None
    assert (receipt.file.path, receipt.file.size_bytes) == ("big.bin", len(WHOLE))
    assert any_ws.objects.get(find_artifact(any_ws, run.id, "big.bin").digest) == WHOLE
    assert read_run(any_ws, run.id).artifacts == (receipt.file,)
    left = [path for path in (any_ws.state / "tmp").rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert left == []


def test_bytes_that_the_project_has_are_not_asked_for_again(ws: Workspace) -> None:
    first, second = start_run(ws, "delay", name="1"), start_run(ws, "delay", name="2")
    keep_artifact(ws, first.id, "big.bin", body(ws, WHOLE))
    assert keep(ws, second, "copy.bin").missing == ()
    assert ws.objects.get(find_artifact(ws, second.id, "copy.bin").digest) == WHOLE


def test_another_project_does_not_learn_what_this_one_has(ws: Workspace) -> None:
    keep_artifact(ws, start_run(ws, "delay", name="1").id, "big.bin", body(ws, WHOLE))
    keep_part(ws, DIGESTS[0], body(ws, PARTS[0]))
    create_project(ws, "north")
    other = ws.acting(ws.actor, "north")
    run = start_run(other, "delay", name="2")
    assert keep(other, run).missing == tuple(DIGESTS)


def test_a_part_that_stands_there_twice_is_sent_once(ws: Workspace) -> None:
    run = start_run(ws, "delay", name="r")
    twice, whole = [DIGESTS[0], DIGESTS[1], DIGESTS[0]], PARTS[0] + PARTS[1] + PARTS[0]
    assert keep(ws, run, whole=whole, parts=twice).missing == (DIGESTS[0], DIGESTS[1])
    for number in (0, 1):
        keep_part(ws, DIGESTS[number], body(ws, PARTS[number]))
    assert keep(ws, run, whole=whole, parts=twice).file is not None
    assert ws.objects.get(digest_bytes(whole)) == whole


def test_what_is_not_what_it_was_said_to_be_is_refused(ws: Workspace) -> None:
    run = start_run(ws, "delay", name="r")
    with pytest.raises(PartDiffers, match=r"a part has the digest .* and not .*; it changed on its way"):
        keep_part(ws, DIGESTS[0], body(ws, PARTS[1]))
    for number in range(4):
        keep_part(ws, DIGESTS[number], body(ws, PARTS[number]))
    with pytest.raises(PartDiffers, match=r"the file of 12,000 bytes that the parts make has the digest"):
        keep(ws, run, whole=b"another")
    with pytest.raises(Invalid, match="is not a digest"):
        keep_part(ws, "../../etc", body(ws, b"x"))
    with pytest.raises(Invalid, match="a file of 0 parts cannot be kept"):
        keep(ws, run, parts=[])
    for path in ("../x", "/x", "a//b", ""):
        with pytest.raises(PathRefused, match="is not usable"):
            keep(ws, run, path)
        with pytest.raises(PathRefused, match="is not usable"):
            keep_artifact(ws, run.id, path, body(ws, b"x"))
    assert read_run(ws, run.id).artifacts == ()


def test_a_run_that_is_not_there_or_in_the_trash_takes_no_file(ws: Workspace) -> None:
    run = start_run(ws, "delay", name="r")
    delete_run(ws, run.id)
    with pytest.raises(RunInTrash, match="is in the trash"):
        keep(ws, run)
    with pytest.raises(RunNotFound, match="there is no run"):
        keep_whole(ws, "nope", "x", DIGESTS[0], 1, DIGESTS[:1])
    with pytest.raises(ArtifactNotFound, match=r"run .* has no artifact 'x'; see which it has with: tidemill run show"):
        find_artifact(ws, run.id, "x")
    with pytest.raises(ActionRefused, match=r"tracking\.write"):
        keep(world.acting(ws, "vic", "viewer"), run)


def test_a_request_that_comes_twice_at_once_joins_once(any_ws: Workspace) -> None:
    run = start_run(any_ws, "delay", name="r")
    for number in range(4):
        keep_part(any_ws, DIGESTS[number], body(any_ws, PARTS[number]))
    with ThreadPoolExecutor(4) as pool:
        receipts = list(pool.map(lambda _: keep(any_ws, run), range(4)))
    assert {receipt.file for receipt in receipts} == {receipts[0].file}
    with any_ws.catalog.reading() as tx:
        assert tx.execute(select(func.count()).select_from(FILES)).scalar_one() == 1


def test_an_empty_file_is_a_file(ws: Workspace) -> None:
    run = start_run(ws, "delay", name="r")
    assert keep_artifact(ws, run.id, "empty", body(ws, b"")).size_bytes == 0
    keep_part(ws, digest_bytes(b""), body(ws, b""))
    assert keep(ws, run, "none", whole=b"", parts=[digest_bytes(b"")]).file is not None
    assert ws.objects.get(find_artifact(ws, run.id, "none").digest) == b""


def test_parts_that_nobody_comes_back_for_are_swept(ws: Workspace) -> None:
    keep_part(ws, DIGESTS[0], body(ws, PARTS[0]))
    keep_part(ws, DIGESTS[1], body(ws, PARTS[1]))
    (old,) = (ws.state / "tmp" / "parts").glob(f"*/{DIGESTS[0]}")
    os.utime(old, (0, 0))
    killed, under_way = body(ws, b"k" * 50), body(ws, b"u")  # what a killed server was writing, and what one writes now
    os.utime(killed, (0, 0))
    assert sweep_parts(ws) == 3050
    assert (killed.exists(), under_way.exists()) == (False, True)
    assert [path.name for path in (ws.state / "tmp" / "parts").glob("*/*")] == [DIGESTS[1]]
