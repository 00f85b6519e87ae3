"""Steps and pipelines: plain typed functions with a decorator, and the graph that their calls draw. Pure."""

import inspect
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, get_type_hints, overload

from tidemill.catalog.lineage import link
from tidemill.core.codec import convert
from tidemill.core.errors import Invalid
from tidemill.core.ids import EventId
from tidemill.core.values import Value
from tidemill.govern.workspace import Workspace
from tidemill.tracking.batches import log_metrics, log_params
from tidemill.tracking.runs import Run, end_run, start_run

P = ParamSpec("P")
R = TypeVar("R")


class Trial(Protocol):
    """What a tuner tells of one trial."""

    @property
    def number(self) -> int: ...
    @property
    def params(self) -> Mapping[str, Any]: ...
    @property
    def state(self) -> str: ...
    @property
    def value(self) -> float | None: ...


class StepContext:
    """What a step is given when it asks for a parameter of this type: the workspace and its own run."""

    def __init__(self, ws: Workspace, run: Run, cause: EventId | None = None) -> None:
        self.ws, self.run, self.cause = ws, run.id, cause
        self._experiment = run.experiment

    def now(self) -> datetime:
        return self.ws.clock.now()

    def log(self, **metrics: float) -> None:
        """Log metrics of this step's run."""
        log_metrics(self.ws, self.run, metrics)

    def log_trial(self, trial: Trial) -> None:
        """Record a tuning trial as a run of its own under this step."""
        run = start_run(self.ws, self._experiment, name=f"trial-{trial.number}", kind="trial", parent=self.run, params=trial.params)
        if trial.value is not None:
            log_metrics(self.ws, run.id, {"value": trial.value})
        end_run(self.ws, run.id, message=trial.state)

    def reads(self, node: str) -> None:
        """Note in lineage that this step reads something that no other step gave it: `dataset:flights@3`."""
        with self.ws.catalog.transaction() as tx:
            link(tx, self.ws.project, source=node, target=f"run:{self.run}", relation="read", at=self.now())

    def log_params(self, **params: Any) -> None:
        """Write params of this step's run."""
        log_params(self.ws, self.run, params)


class Output:
    """The promise of a step's value while a graph is drawn. Pass it to other steps; it has no value of its own."""

    def __init__(self, node: "Node") -> None:
        self.node = node

    def __bool__(self) -> bool:
        raise Invalid(f"the output of step {self.node.name!r} is not known while the pipeline is drawn; decide inside a step instead")

    def __iter__(self) -> Any:
        raise Invalid(f"the output of step {self.node.name!r} cannot be unpacked while the pipeline is drawn; take its parts inside a step")


class Node:
    """One call of one step in a graph."""

    def __init__(self, step: "Step[..., Any]", name: str, arguments: Mapping[str, Any]) -> None:
        self.step, self.name, self.arguments = step, name, dict(arguments)

    @property
    def inputs(self) -> dict[str, "Node"]:
        """The arguments that other steps give."""
        return {name: value.node for name, value in self.arguments.items() if isinstance(value, Output)}


class Graph:
    """The steps of a pipeline in an order in which they can run: each behind those it depends on."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[Node] = []

    def add(self, step: "Step[..., Any]", arguments: Mapping[str, Any]) -> Output:
        same = sum(node.step is step for node in self.nodes)
        node = Node(step, step.name if same == 0 else f"{step.name}-{same + 1}", arguments)
        self.nodes.append(node)
        return Output(node)


_DRAWING: ContextVar[Graph | None] = ContextVar("tidemill_drawing", default=None)


class StepOptions(Value, frozen=True, kw_only=True):
    """How a step is run. retries are tried with growing pauses."""

    cache: bool = True
    retries: int = 0


class Step(Generic[P, R]):
    """A function that a pipeline can run. Outside of a pipeline it is called like any other."""

    def __init__(self, function: Callable[P, R], options: StepOptions) -> None:
        self.function, self.options = function, options
        self.name = function.__name__
        self.__doc__, self.__name__, self.__module__, self.__qualname__ = (
            function.__doc__,
            self.name,
            function.__module__,
            function.__qualname__,
        )
        self.__wrapped__ = function
        self.signature = inspect.signature(function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        graph = _DRAWING.get()
        if graph is None:
            return self.function(*args, **kwargs)
        hints = self.hints()
        given = [name for name in self.signature.parameters if hints.get(name) is not StepContext]
        try:
            bound = self.signature.replace(parameters=[self.signature.parameters[name] for name in given]).bind(*args, **kwargs)
        except TypeError as error:
            raise Invalid(f"step {self.name!r} cannot be called so: {error}") from error
        bound.apply_defaults()
        arguments = {
            name: value if isinstance(value, Output) or name not in hints else convert(value, hints[name], what=f"{self.name}.{name}")
            for name, value in bound.arguments.items()
        }
        return graph.add(self, arguments)  # type: ignore[return-value]  # while drawing, a promise stands for the value

    def hints(self) -> dict[str, Any]:
        """Return the annotated types of the parameters and of the return value."""
        return get_type_hints(self.function)


class Pipeline:
    """A function whose calls of steps draw a graph."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.name = function.__name__
        self.__doc__, self.__module__, self.__wrapped__ = function.__doc__, function.__module__, function

    def draw(self, params: Mapping[str, Any]) -> tuple[Graph, dict[str, Any]]:
        """Return the graph for some params, and all params with defaults filled in. Raises Invalid."""
        signature, hints = inspect.signature(self.function), get_type_hints(self.function)
        try:
            bound = signature.bind(**params)
        except TypeError as error:
            known = ", ".join(signature.parameters) or "none"
            raise Invalid(f"pipeline {self.name!r} cannot be run so: {error} (its params are: {known})") from error
        bound.apply_defaults()
        values = {
            name: convert(value, hints.get(name, Any), what=f"param {name!r} of pipeline {self.name!r}", strict=False)
            for name, value in bound.arguments.items()
        }
        graph = Graph(self.name)
        token = _DRAWING.set(graph)
        try:
            self.function(**values)
        finally:
            _DRAWING.reset(token)
        if not graph.nodes:
            raise Invalid(f"pipeline {self.name!r} calls no step; decorate the functions that do its work with @step")
        return graph, values

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run as an ordinary function: steps are called one by one, nothing is recorded."""
        return self.function(*args, **kwargs)


@overload
def step(function: Callable[P, R], /) -> Step[P, R]: ...
@overload
def step(*, cache: bool = True, retries: int = 0) -> Callable[[Callable[P, R]], Step[P, R]]: ...
def step(function: Callable[P, R] | None = None, /, *, cache: bool = True, retries: int = 0) -> Any:
    """Make a function a step. cache=False runs it each time."""
    options = StepOptions(cache=cache, retries=retries)
    return Step(function, options) if function is not None else lambda made: Step(made, options)


def pipeline(function: Callable[..., Any], /) -> Pipeline:
    """Make a function that calls steps a pipeline."""
    return Pipeline(function)
