"""Every command that a message, a docstring, a page or the documentation names is one that can be typed."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from tests.house.sources import PACKAGE, ROOT, place
from tidemill.cli.main import COMMANDS, Door

# Nouns of the design that are no commands yet: a message that names one leads nowhere.
LATER = {"plan", "apply", "backup", "restore", "deliver", "diagnose", "simulate"}
NAMED = re.compile(rf"tidemill ({'|'.join([*COMMANDS, *LATER])})\b(?: ([a-z][a-z-]*)\b)?")


def texts() -> Iterator[Path]:
    yield from (path for ending in ("py", "html") for path in sorted(PACKAGE.rglob(f"*.{ending}")))
    yield from [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@cache
def command(noun: str) -> click.Command | None:
    return Door(name="tidemill").get_command(click.Context(click.Group()), noun)


def missing(noun: str, verb: str | None) -> bool:
    found = command(noun)
    if not isinstance(found, click.Group):
        return found is None
    return verb is not None and verb not in found.commands


def test_commands_that_are_named_are_there() -> None:
    faults = [
        f"{place(path)}: {match[0]}"
        for path in texts()
        if path.exists()
        for match in NAMED.finditer(path.read_text("utf-8"))
        if missing(match[1], match[2])
    ]
    assert not faults


@pytest.mark.parametrize("noun", COMMANDS)
def test_every_command_explains_itself_and_its_options(noun: str) -> None:
    found = command(noun)
    assert found is not None
    for each in [found, *(found.commands.values() if isinstance(found, click.Group) else ())]:
        assert each.help, each.name
        options = [param for param in each.params if isinstance(param, click.Option) and not param.hidden]
        assert not [option.name for option in options if not option.help and not option.show_default], each.name
        if not isinstance(each, click.Group):
            assert "as_json" in {option.name for option in options}, f"{noun} {each.name} has no --json"
