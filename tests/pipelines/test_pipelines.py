"""Pipelines: run, reuse, rerun exactly what changed, and go on after a failure."""

import importlib.util
import sys
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tidemill.catalog.lineage import walk
from tidemill.core.errors import Invalid, NotFound
from tidemill.govern.workspace import Workspace
from tidemill.pipelines.engine import PipelineRun, StepFailed, run_pipeline, step_value
from tidemill.pipelines.project import load_pipeline
from tidemill.pipelines.step import Pipeline
from tidemill.tracking.runs import list_runs, read_run

_NUMBERS = count()
CODE = '''
"""A project."""
from tidemill.pipelines.step import StepContext, pipeline, step

FACTOR = 3


def helper(x: int) -> int:
    """Multiply."""
    return x * FACTOR


@step
def first(n: int) -> int:
    # a comment
    return helper(n)


@step
def other(n: int) -> int:
    return n + 1


@step
def both(ctx: StepContext, a: int, b: int) -> dict[str, int]:
    ctx.log(total=float(a + b))
    return {"sum": a + b}


@pipeline
def main(n: int = 2) -> None:
    both(first(n), other(n))
'''


def project(home: Path, code: str = CODE) -> Pipeline:
    """Write a project's file under a name of its own and return its pipeline `main`."""
    path = home / f"project_{next(_NUMBERS)}.py"
    path.write_text(code)
    # One module name, so that a changed file is a change of the same functions, as in a fresh process.
    spec = importlib.util.spec_from_file_location("project_under_test", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["project_under_test"] = module
    spec.loader.exec_module(module)
    found: Pipeline = module.main
    return found


def executed(run: PipelineRun) -> list[str]:
    return [step.step for step in run.steps if not step.cached]


def test_a_second_run_executes_nothing_and_gives_the_same(any_ws: Workspace) -> None:
    main = project(any_ws.home)
    first = run_pipeline(any_ws, main)
    assert (executed(first), step_value(any_ws, first, "both")) == (["first", "other", "both"], {"sum": 9})
    second = run_pipeline(any_ws, main)
    assert (executed(second), step_value(any_ws, second, "both")) == ([], {"sum": 9})


@pytest.mark.parametrize(
    ("before", "after", "rerun"),
    [
        ("# a comment", "# another comment", []),
        ('"""Multiply."""', '"""Multiply well."""', []),
        ("return x * FACTOR", "return x * FACTOR + 1", ["first", "both"]),
        ("FACTOR = 3", "FACTOR = 4", ["first", "both"]),
        ("return n + 1", "return n + 2", ["other", "both"]),
        ("return n + 1", "return 1 + n", ["other"]),
        ('{"sum": a + b}', '{"sum": b + a}', ["both"]),
    ],
)
def test_a_change_reruns_what_it_reaches_and_nothing_else(ws: Workspace, before: str, after: str, rerun: list[str]) -> None:
    run_pipeline(ws, project(ws.home))
    assert executed(run_pipeline(ws, project(ws.home, CODE.replace(before, after)))) == rerun


def test_another_param_reruns_what_depends_on_it(ws: Workspace) -> None:
    main = project(ws.home)
    run_pipeline(ws, main)
    assert executed(run_pipeline(ws, main, {"n": 3})) == ["first", "other", "both"]
    assert executed(run_pipeline(ws, main, {"n": "2"})) == []


def test_an_entry_whose_artifact_is_gone_is_not_used(ws: Workspace) -> None:
    main = project(ws.home)
    run = run_pipeline(ws, main)
    ws.objects.delete(run.steps[0].output.digest)
    assert executed(run_pipeline(ws, main)) == ["first"]


def test_a_failed_step_is_named_and_the_next_run_goes_on_from_there(ws: Workspace) -> None:
    broken = CODE.replace("return n + 1", "raise KeyError('no such airport')")
    with pytest.raises(StepFailed, match="step 'other' of pipeline 'main' failed: KeyError: 'no such airport'"):
        run_pipeline(ws, project(ws.home, broken))
    assert sorted((run.name, run.status) for run in list_runs(ws)) == [("first", "finished"), ("main", "failed"), ("other", "failed")]
    assert executed(run_pipeline(ws, project(ws.home))) == ["other", "both"]


def test_a_retried_step_gets_its_tries(ws: Workspace) -> None:
    flaky = CODE.replace("@step\ndef other", "TRIES = []\n\n\n@step(retries=2)\ndef other").replace(
        "return n + 1", "TRIES.append(1)\n    if len(TRIES) < 3:\n        raise OSError('again')\n    return n + 1"
    )
    assert step_value(ws, run_pipeline(ws, project(ws.home, flaky)), "both") == {"sum": 9}


def test_steps_are_runs_with_metrics_and_lineage(ws: Workspace) -> None:
    run = run_pipeline(ws, project(ws.home))
    both = read_run(ws, run.steps[2].run)
    assert (both.parent, both.metrics["total"], both.tags["cache"]) == (run.run, 9.0, "miss")
    with ws.catalog.reading() as tx:
        sources = {edge.source for edge in walk(tx, ws.project, f"artifact:{run.steps[2].output.digest}")}
    assert {f"run:{run.steps[2].run}", f"artifact:{run.steps[0].output.digest}", f"run:{run.steps[0].run}"} <= sources


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("both(first(n), other(n))", None),
        ("both(first(n))", "step 'both' cannot be called so: missing a required argument: 'b'"),
        ("both(first('x'), other(n))", "first.n was not understood: Expected `int`, got `str`"),
        ("a, b = first(n)", "the output of step 'first' cannot be unpacked"),
        ("first(n) or other(n)", "the output of step 'first' is not known while the pipeline is drawn"),
        ("pass", "pipeline 'main' calls no step"),
    ],
)
def test_a_graph_that_cannot_be_is_told_before_anything_runs(ws: Workspace, code: str, said: str | None) -> None:
    main = project(ws.home, CODE.replace("both(first(n), other(n))", code))
    if said is None:
        assert run_pipeline(ws, main).executed == 3
        return
    with pytest.raises(Invalid, match=said):
        run_pipeline(ws, main)
    assert list_runs(ws) == []


@pytest.mark.parametrize(
    ("params", "said"), [({"m": 1}, "its params are: n"), ({"n": "x"}, "param 'n' of pipeline 'main' was not understood")]
)
def test_params_that_do_not_fit_are_refused(ws: Workspace, params: dict[str, Any], said: str) -> None:
    with pytest.raises(Invalid, match=said):
        run_pipeline(ws, project(ws.home), params)


VALUES = """
import numpy as np
import pyarrow as pa
from tidemill.pipelines.step import pipeline, step

@step
def table() -> pa.Table:
    return pa.table({"x": [1, 2]})

@step
def array(t: pa.Table) -> np.ndarray:
    return t.column("x").to_numpy() * 2.0

@step
def data(a: np.ndarray) -> bytes:
    return bytes(a.astype("u1"))

@pipeline
def main() -> None:
    data(array(table()))
"""


def test_values_of_each_kind_travel_through_the_store(ws: Workspace) -> None:
    run = run_pipeline(ws, project(ws.home, VALUES))
    assert step_value(ws, run, "table").equals(pa.table({"x": [1, 2]}))
    np.testing.assert_array_equal(step_value(ws, run, "array"), [2.0, 4.0])
    assert step_value(ws, run, "data") == b"\x02\x04"
    again = run_pipeline(ws, project(ws.home, VALUES.replace('astype("u1")', 'astype("u1") + 0')))
    assert executed(again) == ["data"]


def test_a_value_that_cannot_be_stored_safely_is_told_so(ws: Workspace) -> None:
    code = CODE.replace("return n + 1", "return object()")
    with pytest.raises(StepFailed, match="the value of step 'other' is a object, which cannot be stored safely"):
        run_pipeline(ws, project(ws.home, code))


def test_outside_of_a_pipeline_steps_are_functions(ws: Workspace) -> None:
    project(ws.home)
    assert sys.modules["project_under_test"].first(5) == 15


def test_declared_pipelines_are_found_with_their_params(ws: Workspace) -> None:
    (ws.home / "declared_project.py").write_text(CODE)
    (ws.home / "tidemill.toml").write_text('[pipelines.train]\ntarget = "declared_project:main"\nparams = { n = 7 }\n')
    found, params = load_pipeline(ws.home, "train")
    assert (found.name, params) == ("main", {"n": 7})
    assert load_pipeline(ws.home, "declared_project:main")[0] is found
    with pytest.raises(NotFound, match="there is no pipeline 'trian'; did you mean 'train'"):
        load_pipeline(ws.home, "trian")
    with pytest.raises(Invalid, match="is a Step, not a pipeline"):
        load_pipeline(ws.home, "declared_project:first")
