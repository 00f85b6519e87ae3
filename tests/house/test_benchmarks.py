"""Every benchmark still runs, in small. That says nothing of how fast anything is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.sources import ROOT

SCRIPTS = sorted((ROOT / "benchmarks").rglob("bench_*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: f"{script.parent.name}/{script.stem}")
def test_a_benchmark_runs_and_says_what_it_measured(script: Path) -> None:
    done = subprocess.run([sys.executable, str(script), "--quick", "--json"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["workload"]
    assert "Python" in told["machine"]
    assert told["lines"]
    assert all(line["min"] <= line["median"] <= line["max"] for line in told["lines"])


def test_readme_tells_of_every_benchmark() -> None:
    text = (ROOT / "benchmarks" / "README.md").read_text("utf-8")
    assert not [script.name for script in SCRIPTS if f"{script.parent.name}/{script.name}" not in text]
