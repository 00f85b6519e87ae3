"""Run a pipeline: each step behind its inputs, reused when its fingerprint was seen, recorded as a run with lineage."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tenacity import Retrying, stop_after_attempt, wait_random_exponential

from tidemill import __version__
from tidemill.catalog.lineage import link
from tidemill.core.clock import elapsed
from tidemill.core.digest import digest_value
from tidemill.core.errors import TidemillError
from tidemill.core.ids import Digest, EventId, RunId
from tidemill.core.values import Value
from tidemill.govern.workspace import Workspace
from tidemill.pipelines import cache
from tidemill.pipelines.artifacts import Saved, load, save
from tidemill.pipelines.fingerprint import code_digest
from tidemill.pipelines.step import Node, Output, Pipeline, StepContext
from tidemill.store.trees import put_tree
from tidemill.tracking.batches import log_metrics, set_tags
from tidemill.tracking.runs import Run, end_run, start_run

# The tag of a pipeline run that names the tree of the project's Python files as they were.
CODE = "code"


class StepRun(Value, frozen=True, kw_only=True):
    """How one step of a pipeline run went."""

    step: str
    run: RunId
    fingerprint: Digest
    cached: bool
    seconds: float
    output: Saved


class PipelineRun(Value, frozen=True, kw_only=True):
    """How a pipeline run went, step by step in the order in which they ended."""

    pipeline: str
    run: RunId
    seconds: float
    steps: tuple[StepRun, ...]

    @property
    def executed(self) -> int:
        """The number of steps that were not reused."""
        return sum(not step.cached for step in self.steps)


class StepFailed(TidemillError):
    """A step raised; the pipeline stopped there. What was finished is kept and reused next time."""

    def __init__(self, pipeline: str, step: str, run: RunId, error: BaseException) -> None:
        self.pipeline, self.step, self.run = pipeline, step, run
        kind = "" if isinstance(error, TidemillError) else f"{type(error).__name__}: "
        super().__init__(
            f"step {step!r} of pipeline {pipeline!r} failed: {kind}{error}; run the pipeline again to go on from there (run {run})"
        )


def run_pipeline(
    ws: Workspace, pipeline: Pipeline, params: Mapping[str, Any] | None = None, *, cause: EventId | None = None
) -> PipelineRun:
    """Run a pipeline to its end. Raises Invalid for params that do not fit, StepFailed when a step raises."""
    ws.require("pipelines.write", pipeline.name)
    graph, values = pipeline.draw(params or {})
    began = elapsed()
    code = put_tree(ws.objects, {file.name: file for file in sorted(ws.home.glob("*.py"))})
    whole = start_run(
        ws, pipeline.name, name=pipeline.name, kind="pipeline", params=values, tags={CODE: code}, sources=[f"artifact:{code}"], cause=cause
    )
    done: dict[str, StepRun] = {}
    memory: dict[Digest, Any] = {}  # values of this run, so that a step need not read what another has just written
    for node in graph.nodes:
        try:
            done[node.name] = _run_node(ws, node, whole, done, memory, cause)
        except Exception as error:
            failed = StepFailed(pipeline.name, node.name, whole.id, error)
            end_run(ws, whole.id, status="failed", message=str(failed))
            raise failed from error
    log_metrics(ws, whole.id, {"seconds": elapsed() - began, "steps_executed": float(sum(not step.cached for step in done.values()))})
    end_run(ws, whole.id)
    return PipelineRun(pipeline=pipeline.name, run=whole.id, seconds=elapsed() - began, steps=tuple(done.values()))


def step_value(ws: Workspace, run: PipelineRun, step: str, hint: Any = Any) -> Any:
    """Return what a step of a run gave."""
    return load(ws.objects, next(s for s in run.steps if s.step == step).output, hint)


def _run_node(
    ws: Workspace, node: Node, whole: Run, done: Mapping[str, StepRun], memory: dict[Digest, Any], cause: EventId | None
) -> StepRun:
    began = elapsed()
    inputs = {name: done[source.name].output for name, source in node.inputs.items()}
    literals = {name: value for name, value in node.arguments.items() if not isinstance(value, Output)}
    fingerprint = digest_value(
        {
            "step": node.step.name,
            "code": code_digest(node.step.function, root=_root(ws, node)),
            "inputs": {name: saved.digest for name, saved in inputs.items()},
            "literals": literals,
            "tidemill": __version__,
        }
    )
    sources = [f"artifact:{saved.digest}" for saved in inputs.values()]
    run = start_run(ws, whole.experiment, name=node.name, kind="step", parent=whole.id, params=literals, sources=sources)
    hit = cache.find(ws, fingerprint) if node.step.options.cache else None
    set_tags(ws, run.id, {"fingerprint": fingerprint, "cache": "hit" if hit else "miss"})
    if hit is not None:
        end_run(ws, run.id, message=f"reused run {hit.run}")
        return StepRun(step=node.name, run=run.id, fingerprint=fingerprint, cached=True, seconds=elapsed() - began, output=hit.saved)
    try:
        value = _call(ws, node, run, {**literals, **_values(ws, node, inputs, memory)}, cause)
        saved = save(ws.objects, value, what=f"the value of step {node.name!r}")
    except BaseException as error:
        end_run(
            ws, run.id, status="killed" if isinstance(error, KeyboardInterrupt) else "failed", message=f"{type(error).__name__}: {error}"
        )
        raise
    if saved.kind != "json":  # values that JSON says are read back as the next step declares them, now as in a later run
        memory[saved.digest] = value
    cache.keep(ws, fingerprint, saved, run.id)
    with ws.catalog.transaction() as tx:
        link(tx, ws.project, source=f"run:{run.id}", target=f"artifact:{saved.digest}", relation="wrote", at=ws.clock.now())
    log_metrics(ws, run.id, {"seconds": elapsed() - began})
    end_run(ws, run.id)
    return StepRun(step=node.name, run=run.id, fingerprint=fingerprint, cached=False, seconds=elapsed() - began, output=saved)


def _values(ws: Workspace, node: Node, inputs: Mapping[str, Saved], memory: Mapping[Digest, Any]) -> dict[str, Any]:
    hints = node.step.hints()
    return {
        name: memory[saved.digest] if saved.digest in memory else load(ws.objects, saved, hints.get(name, Any))
        for name, saved in inputs.items()
    }


def _call(ws: Workspace, node: Node, run: Run, arguments: dict[str, Any], cause: EventId | None) -> Any:
    hints = node.step.hints()
    context = {name: StepContext(ws, run, cause) for name in node.step.signature.parameters if hints.get(name) is StepContext}
    tries = Retrying(
        stop=stop_after_attempt(1 + node.step.options.retries), wait=wait_random_exponential(multiplier=0.2, max=30), reraise=True
    )
    return tries(node.step.function, **arguments, **context)


def _root(ws: Workspace, node: Node) -> Path:
    """The folder whose code counts as the project's: the workspace, or where the step's file lies when that is elsewhere."""
    file = Path(node.step.function.__code__.co_filename).resolve()
    return ws.home if file.is_relative_to(ws.home) else file.parent
