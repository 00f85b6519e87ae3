"""What a model takes and gives, and the file that says so inside a model bundle. Knows nothing of any runtime."""

from typing import Annotated, Literal

from tidemill.core.errors import Invalid
from tidemill.core.values import Meta, Value

ColumnKind = Literal["double", "long", "string", "boolean"]
OutputKind = Literal["double", "float", "long", "string", "boolean"]
SPEC_FILE = "model.json"


class Column(Value, frozen=True, kw_only=True):
    """One named column of a table of rows. A NaN in a double column means missing."""

    name: str
    kind: ColumnKind
    required: bool = True
    low: float | None = None
    high: float | None = None
    categories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise Invalid(f"column {self.name!r} ranges from {self.low} to {self.high}; expected low <= high")


class Signature(Value, frozen=True, kw_only=True):
    """The columns that a model takes and those that it gives."""

    inputs: tuple[Column, ...]
    outputs: tuple[Column, ...]

    def __post_init__(self) -> None:
        for side, columns in (("inputs", self.inputs), ("outputs", self.outputs)):
            names = [column.name for column in columns]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise Invalid(f"signature names {side} twice: {', '.join(twice)}")

    def input(self, name: str) -> Column:
        """Return the input column of that name. Raises Invalid."""
        for column in self.inputs:
            if column.name == name:
                return column
        raise Invalid(f"signature has no input {name!r} (it has: {', '.join(column.name for column in self.inputs)})")


class Output(Value, frozen=True, kw_only=True, omit_defaults=True):
    """What a model answers beside its score: an array [n], or [n, width], of which a width of -1 is any.

    source: what the model itself calls it (a tensor, a method, a key, a column); its name, unless told.
    """

    name: Annotated[str, Meta(min_length=1)]
    kind: OutputKind
    width: Annotated[int, Meta(ge=-1)] | None = None
    source: str = ""

    @property
    def asked(self) -> str:
        """What the model calls it."""
        return self.source or self.name

    @property
    def form(self) -> str:
        """Its kind, and its shape where that is not one value a row: `float [-1, 3]`."""
        return self.kind if self.width is None else f"{self.kind} [-1, {self.width}]"


class Step(Value, frozen=True, kw_only=True):
    """One step of a bundle that has several: a file and what runs it. What it answers is a column, named gives, for the steps behind it.

    A Python function may also answer with several columns, by name.
    """

    runtime: str
    file: str
    tensors: dict[str, tuple[str, ...]]
    output: str = ""
    output_index: int = 0
    gives: str = "score"


class ModelSpec(Value, frozen=True, kw_only=True):
    """`model.json` of a bundle: how a runtime feeds the model file beside it.

    tensors maps each input tensor of the model file to the columns that fill it, in order: [n, k]. output names the
    tensor that holds the score, output_index its column when it is [n, m]; others is what is answered beside the score. threshold
    turns a score into a label.
    feature_service names the features that the server looks up by entity key; request_columns come with the request.
    steps: of the runtime `steps`, which has no file of its own; each is fed what was sent and what the steps before it gave.
    """

    runtime: str
    file: str
    signature: Signature
    tensors: dict[str, tuple[str, ...]]
    output: str
    output_index: int = 0
    threshold: Annotated[float, Meta(ge=0, le=1)] | None = None
    feature_service: str | None = None
    request_columns: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    others: tuple[Output, ...] = ()

    def __post_init__(self) -> None:
        known = {column.name for column in self.signature.inputs}
        fed = [name for columns in self.tensors.values() for name in columns]
        strange = sorted(set(fed) - known)
        if strange:
            raise Invalid(f"model.json feeds columns that its signature does not name: {', '.join(strange)}")
        if bool(self.steps) != (self.runtime == "steps"):
            raise Invalid(f"model.json has the runtime {self.runtime!r} and {len(self.steps)} steps; steps belong to the runtime 'steps'")
        names = [column.name for column in self.signature.outputs[:1]] + [output.name for output in self.others]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise Invalid(f"model.json names the output {twice[0]!r} twice; the score and each of its others has a name of its own")

    @property
    def score_name(self) -> str:
        """What the score is called."""
        return self.signature.outputs[0].name if self.signature.outputs else "score"

    @property
    def whole(self) -> Output | None:
        """That of the others of which the score is a column, None when there is none."""
        made = self.steps[-1].output if self.steps else self.output
        return next((output for output in self.others if output.width is not None and output.asked == made), None)
