"""What coming through the door costs: nothing but the standard library, and little time. The one place where time is asserted."""

import importlib.util
import subprocess
import sys
from time import perf_counter

import pytest

from tests.house.sources import ROOT

IMPORT_BUDGET_MS = 100
HELP_BUDGET_MS = 150
TRIES = 7


@pytest.mark.slow
def test_importing_tidemill_is_quick() -> None:
    assert _added_ms("import tidemill") < IMPORT_BUDGET_MS


@pytest.mark.slow
def test_help_is_quick() -> None:
    if importlib.util.find_spec("tidemill.cli") is None:
        pytest.skip("tidemill.cli does not exist yet")
    assert _added_ms(
        "import sys; sys.argv = ['tidemill', '--help']\ntry:\n    from tidemill.cli.main import main; main()\nexcept SystemExit: pass"
    ) < (HELP_BUDGET_MS)


def test_importing_tidemill_loads_the_standard_library_only() -> None:
    loaded = _loaded("import tidemill")
    assert not [name for name in loaded if name not in sys.stdlib_module_names and name != "tidemill"]


def test_help_loads_no_heavy_library() -> None:
    if importlib.util.find_spec("tidemill.cli") is None:
        pytest.skip("tidemill.cli does not exist yet")
    loaded = _loaded("import tidemill.cli.main")
    heavy = {
        "numpy",
        "pandas",
        "pyarrow",
        "duckdb",
        "sqlalchemy",
        "alembic",
        "onnxruntime",
        "sklearn",
        "starlette",
        "uvicorn",
        "jinja2",
        "urllib3",
    }
    assert not heavy & loaded


def test_every_name_in_the_root_table_can_be_imported() -> None:
    code = "import tidemill\nfor name in tidemill.__all__:\n    getattr(tidemill, name)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def _loaded(code: str) -> set[str]:
    """Return the top-level modules that code brings into a fresh interpreter, beyond what a bare one holds."""
    script = f"import sys; before = set(sys.modules)\n{code}\nprint(*sorted({{m.partition('.')[0] for m in set(sys.modules) - before}}))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=ROOT)
    return {name for name in done.stdout.split() if not name.startswith("_")}


def _added_ms(code: str) -> float:
    """Return what code adds to a bare interpreter's start: the least of several fresh processes, taken in turns."""
    bare, full = [], []
    for _ in range(TRIES):
        bare.append(_run_ms("pass"))
        full.append(_run_ms(code))
    return min(full) - min(bare)


def _run_ms(code: str) -> float:
    start = perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return (perf_counter() - start) * 1000
