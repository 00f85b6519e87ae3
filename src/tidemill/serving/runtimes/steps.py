"""Models of several steps: what prepares rows, a model, what is made of its score; each a file of the bundle with a runtime of its own.

Steps that run code put the whole bundle into a process of its own; ONNX before and after a model does not.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tidemill.core.signature import Column, ModelSpec, Output, Signature, Step
from tidemill.serving.runtimes.python import PythonRuntime
from tidemill.serving.runtimes.runtime import Answer, Columns, ModelFailed, Runtime, Scores, load_here


class StepsRuntime:
    """Runs one step after the other; the last one's answer is the model's."""

    def __init__(self, folder: Path, spec: ModelSpec, *, model: str, threads: int) -> None:
        self._model = model
        sent = {column.name: column for column in spec.signature.inputs}
        others = [()] * (len(spec.steps) - 1) + [spec.others]
        self._steps = [
            (step, load_here(folder, _spec(step, sent, beside), model=model, threads=threads))
            for step, beside in zip(spec.steps, others, strict=True)
        ]
        self._last = self._steps[-1][1]

    def run(self, columns: Columns, rows: int) -> Scores:
        return self._last.run(self._prepared(columns, rows), rows)

    def answer(self, columns: Columns, rows: int) -> Answer:
        return self._last.answer(self._prepared(columns, rows), rows)

    def _prepared(self, columns: Columns, rows: int) -> Columns:
        """Return what the last step is fed."""
        found = columns
        for step, runtime in self._steps[:-1]:
            self._check(step, found)
            given = runtime.give(found) if isinstance(runtime, PythonRuntime) else runtime.run(found, rows)
            found = {**found, **self._columns(step, given, rows)}
        self._check(self._steps[-1][0], found)
        return found

    def _check(self, step: Step, found: Columns) -> None:
        lacking = sorted({name for names in step.tensors.values() for name in names} - found.keys())
        if lacking:
            raise ModelFailed(self._model, f"its step {step.file} takes {', '.join(lacking)}, which no step before it gives")

    def _columns(self, step: Step, given: Any, rows: int) -> Columns:
        columns = dict(given) if isinstance(given, Mapping) else {step.gives: given}
        for name, column in columns.items():
            if not hasattr(column, "__len__") or len(column) != rows:
                raise ModelFailed(self._model, f"its step {step.file} gave a column {name!r} that is not one value for each of {rows} rows")
        return columns


def load_steps(folder: Path, spec: ModelSpec, *, model: str, threads: int) -> Runtime:
    """Load all steps of a bundle."""
    return StepsRuntime(folder, spec, model=model, threads=threads)


def _spec(step: Step, sent: Mapping[str, Column], others: tuple[Output, ...]) -> ModelSpec:
    """Return a step as a model of its own. What steps before it give are numbers, for all that is known."""
    fed = dict.fromkeys(name for names in step.tensors.values() for name in names)
    inputs = tuple(sent.get(name) or Column(name=name, kind="double", required=False) for name in fed)
    return ModelSpec(
        runtime=step.runtime,
        file=step.file,
        signature=Signature(inputs=inputs, outputs=()),
        tensors=step.tensors,
        output=step.output,
        output_index=step.output_index,
        others=others,
    )
