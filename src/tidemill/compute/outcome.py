"""How a function's result, or the exception that it raised, travels back from another process.

Pickle, and only between a caller and the workers of its own executor (processes that it started, or the Ray cluster that it was
pointed at, which is trusted as such): nothing out of a store, a request or a model is unpickled.
"""

import pickle
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from tidemill.core.errors import Invalid


class Outcome:
    """A pickled result, or the parts of an exception.

    Not the exception itself: unpickling one calls its class with `args`, which holds the finished sentence and not what the class
    takes, so that an error with attributes of its own would break the pool instead of arriving.
    """

    __slots__ = ("arguments", "attributes", "failed", "kind", "note", "result")

    def __init__(self) -> None:
        self.failed = False
        self.result: bytes = b""
        self.kind: bytes = b""
        self.arguments: bytes = b""
        self.attributes: dict[str, bytes] = {}
        self.note = ""

    def value(self) -> Any:
        """Return the result, or raise the exception as it was raised over there."""
        if self.failed:
            self._raise()
        return pickle.loads(self.result)

    def _raise(self) -> NoReturn:
        kind = pickle.loads(self.kind)
        error = kind.__new__(kind)
        error.args = pickle.loads(self.arguments)
        for name, data in self.attributes.items():
            setattr(error, name, pickle.loads(data))
        error.add_note(self.note)
        raise error


def run(fn: Callable[..., Any], arguments: bytes) -> Outcome:
    """Call fn with pickled (args, kwargs) and return what came of it. Runs in the worker."""
    outcome = Outcome()
    try:
        args, kwargs = pickle.loads(arguments)
        result = fn(*args, **kwargs)
    except Exception as error:  # noqa: BLE001  # the edge of a process: the caller gets it
        _fail(outcome, error)
        return outcome
    try:
        outcome.result = pickle.dumps(result, protocol=5)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        name = getattr(fn, "__qualname__", repr(fn))
        _fail(outcome, Invalid(f"the result of {name} cannot be sent back ({error}); return plain data, values or paths instead"))
    return outcome


def _fail(outcome: Outcome, error: BaseException) -> None:
    outcome.failed = True
    outcome.note = "in a worker process:\n" + "".join(traceback.format_exception(error)).rstrip()
    try:
        outcome.kind = pickle.dumps(type(error))
        outcome.arguments = pickle.dumps(error.args)
    except (pickle.PicklingError, AttributeError, TypeError):  # a class made inside a function: its nearest relative that has a name
        _fail(outcome, _relative(error))
        return
    for name, value in vars(error).items():
        try:
            outcome.attributes[name] = pickle.dumps(value)
        except (pickle.PicklingError, AttributeError, TypeError):
            outcome.attributes[name] = pickle.dumps(repr(value))


def _relative(error: BaseException) -> BaseException:
    text = f"{type(error).__name__}: {error}"
    for kind in type(error).__mro__[1:]:
        if "<" not in kind.__qualname__ and issubclass(kind, BaseException):
            try:
                return kind(text)
            except TypeError:
                continue
    return RuntimeError(text)
