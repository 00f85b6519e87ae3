"""Fragments of the changelog are named right and say something; settings are documented."""

import re
import subprocess
import sys

import pytest

from tests.house.sources import ROOT
from tidemill.core.settings import HELP, Settings
from tidemill.core.values import fields_of

FRAGMENT = re.compile(r"[a-z0-9][a-z0-9-]*\.(added|changed|fixed|removed)\.md")


def test_fragments_are_named_topic_dot_kind() -> None:
    assert not [path.name for path in (ROOT / "changelog.d").iterdir() if not FRAGMENT.fullmatch(path.name)]


def test_fragments_hold_one_or_two_sentences() -> None:
    for path in (ROOT / "changelog.d").glob("*.md"):
        text = " ".join(path.read_text("utf-8").split())
        assert 20 <= len(text) <= 600, f"{path.name} has {len(text)} characters; write one or two sentences for a user"
        assert text.endswith("."), f"{path.name} must end with a full stop"


@pytest.mark.parametrize("name", fields_of(Settings))
def test_every_setting_has_its_line_of_help(name: str) -> None:
    assert len(HELP[name]) > 10


def test_no_help_without_a_setting() -> None:
    assert set(HELP) == set(fields_of(Settings))


def test_the_lock_names_no_index_and_hashes_everything() -> None:
    lock = (ROOT / "locks" / "dev.txt").read_text("utf-8")
    assert "://" not in lock
    assert "--index" not in lock
    assert "--find-links" not in lock
    pins = [line for line in lock.splitlines() if line and not line.startswith((" ", "#"))]
    assert pins
    assert all("==" in line and line.endswith("\\") for line in pins)


def test_the_make_targets_that_the_readme_promises_exist() -> None:
    done = subprocess.run(["make", "help", f"PYTHON={sys.executable}"], cwd=ROOT, check=True, capture_output=True, text=True)
    assert {"demo", "test", "check", "bench", "docs", "lock"} <= set(re.findall(r"make (\w+)", done.stdout))
