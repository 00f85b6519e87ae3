"""What long-lived processes write to their log."""

import json
import logging
from collections.abc import Iterator

import pytest

from tidemill.core.process import start_logging, without_secrets


@pytest.fixture(autouse=True)
def _root() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def written(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_a_json_line_is_one_object_with_what_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    start_logging("info", form="json")
    logging.getLogger("tidemill.x").warning("line one\nline %d", 2, extra={"endpoint": "delay", "trace_id": "ab"})
    logging.getLogger("tidemill.x").debug("not severe enough")
    (line,) = written(capsys)
    told = json.loads(line)
    assert told.pop("time").endswith("+00:00")
    assert told.pop("pid") > 0
    assert told == {"level": "warning", "logger": "tidemill.x", "message": "line one\nline 2", "endpoint": "delay", "trace_id": "ab"}


def test_an_exception_stands_in_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    start_logging("info", form="json")
    try:
        raise ValueError("no postgresql://me:secret@host/db")
    except ValueError:
        logging.getLogger("x").exception("it failed")
    (line,) = written(capsys)
    assert "ValueError: no postgresql://me:***@host/db" in json.loads(line)["exception"]
    assert "secret" not in line


def test_text_lines_are_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    start_logging("info", form="text")
    logging.getLogger("tidemill.x").error("a model failed", extra={"endpoint": "delay"})
    (line,) = written(capsys)
    assert line.endswith("ERROR   tidemill.x: a model failed endpoint=delay")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("at redis://:pw@host:1/0, later", "at redis://:***@host:1/0, later"),
        ("s3://bucket?secret_key=abc&region=x is away", "s3://bucket?secret_key=***&region=x is away"),
        ("header 'Bearer tm_0a1b_Zm9v-YmFy' came", "header 'Bearer tm_0a1b_***' came"),
        ("nothing to hide at http://host:80/path", "nothing to hide at http://host:80/path"),
    ],
)
def test_secrets_are_masked(text: str, told: str) -> None:
    assert without_secrets(text) == told
