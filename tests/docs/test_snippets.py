"""Every block of code in the documentation runs, or names commands that exist."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from tests.docs.story import Block, blocks, story
from tidemill.cli.main import COMMANDS, tidemill

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = {"python", "sh", "console", "toml", "json", "text"}
PAGES = [*story(ROOT), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
BLOCKS = [pytest.param(block, id=f"{block.page}:{block.line}") for page in PAGES if page.exists() for block in blocks(page)]
SHOWN_TO_CONTRIBUTORS = [p for p in BLOCKS if p.values[0].page == "CONTRIBUTING.md" and p.values[0].language == "python"]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_story_runs_from_its_first_page_to_its_last(tmp_path: Path) -> None:
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEMILL_")}
    environment |= {"PATH": places, "XDG_STATE_HOME": str(tmp_path / "state")}
    command = [sys.executable, "-W", "error", str(ROOT / "tests" / "docs" / "story.py"), str(ROOT), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=230)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_loop_of_the_readme_turns(tmp_path: Path) -> None:
    (code,) = [block.text for block in blocks(ROOT / "README.md") if block.language == "python"]
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr[-3000:]
    reason, last = done.stdout.strip().splitlines()
    assert reason.startswith("the challenger is better")
    assert last == "v2 [2] True"


@pytest.mark.slow
@pytest.mark.parametrize("block", SHOWN_TO_CONTRIBUTORS)
def test_what_contributors_are_shown_runs(block: Block) -> None:
    exec(compile(block.text, block.page, "exec"), {})


@pytest.mark.slow
def test_the_reference_says_what_the_code_says() -> None:
    done = subprocess.run([sys.executable, "scripts/reference.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_is_in_a_language_that_is_checked(block: Block) -> None:
    assert block.language in LANGUAGES


@pytest.mark.parametrize("block", [param for param in BLOCKS if param.values[0].language == "console"])
def test_every_command_that_is_shown_exists(block: Block) -> None:
    lines = [line.removeprefix("$ ").split("  #")[0].strip() for line in block.text.splitlines() if line.startswith("$ ")]
    assert lines, "a console block shows commands behind a dollar sign"
    for line in lines:
        check_command(line)


def check_command(line: str) -> None:
    words = line.split()
    if words[0] == "tidemill":
        command: click.Command = tidemill
        context = click.Context(tidemill, info_name="tidemill")
        for word in words[1:]:
            if isinstance(command, click.Group) and not word.startswith("-"):
                assert word in command.list_commands(context), f"{line}: there is no command {word}"
                command = command.get_command(context, word)
        options = {name for param in command.params for name in param.opts}
        given = {word.split("=")[0] for word in words[1:] if word.startswith("--")}
        assert given <= options | {"--help", "--version"}, f"{line}: unknown option"
    elif words[0] == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        named = [word for word in words[1:] if "=" not in word and '"' not in word and not word.startswith("-")]
        assert named[0] in targets, f"{line}: there is no such target"
    elif words[0] == "pip":
        extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"])
        named = re.search(r"tidemill(?:\[([\w,]+)\])?", line)
        assert named
        assert set((named[1] or "").split(",")) - {""} <= extras, f"{line}: there is no such extra"
    else:
        assert words[0] in {"git", "cd", "python", "sh"}, f"{line}: not a command that is checked"


def test_every_command_of_the_door_says_what_it_does() -> None:
    assert all(text.endswith(".") and len(text) > 10 for _, text in COMMANDS.values())
