"""Projects whose pipelines do little: each under a module name of its own, for a process imports a name once."""

import textwrap
from itertools import count
from pathlib import Path

_NUMBERS = count()


def project(home: Path, body: str = "return n") -> str:
    """Write a project's file and declare its pipeline; return the pipeline's name."""
    module = f"jobs_{next(_NUMBERS)}"
    code = f"""\
import os, sys, time
from pathlib import Path

from tidemill.core.errors import Invalid
from tidemill.pipelines.step import pipeline, step


@step
def work(n: int) -> int:
{textwrap.indent(body, "    ")}


@pipeline
def main(n: int = 2) -> None:
    work(n)
"""
    (home / f"{module}.py").write_text(code)
    with (home / "tidemill.toml").open("a") as file:
        file.write(f'\n[pipelines.{module}]\ntarget = "{module}:main"\n')
    return module
