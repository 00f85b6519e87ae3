"""The error hierarchy, whole.

    TidemillError                 anything Tidemill says no to; its text is one readable sentence
    ├── NotFound                  the thing named does not exist
    ├── Conflict                  it exists already, or changed meanwhile
    ├── Invalid (also ValueError) the input is not of the form expected
    ├── NotPermitted              the actor may not do this
    ├── Unavailable               something needed (a library, a service, disk) is missing right now
    │   └── ExtraMissing          an optional library is not installed
    └── Corrupt                   stored bytes are not what was stored

Specific classes live with their nouns. Errors know nothing of HTTP: `server/errors.py` maps classes to status codes.
A message says what happened, what was expected and what to do next.
"""

from typing import Any, TypeVar

E = TypeVar("E", bound="TidemillError")


class TidemillError(Exception):
    """Base of all errors that are meant for a reader. Pickles with its sentence and its facts, whatever its class takes."""

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception's own way calls the class with `args`, which holds the finished sentence and not what the class takes.
        return _restore, (type(self), self.args, vars(self))


class NotFound(TidemillError):
    """The thing named does not exist."""


class Conflict(TidemillError):
    """The thing exists already, or was changed by somebody else meanwhile."""


class Invalid(TidemillError, ValueError):
    """The input is not of the form expected. A ValueError too, so that decoders add the path of the fault."""


class NotPermitted(TidemillError):
    """The actor may not do this."""


class Unavailable(TidemillError):
    """Something that is needed is missing right now: a service, a library, disk space."""


class ExtraMissing(Unavailable):
    """An optional library is not installed."""

    def __init__(self, library: str, extra: str) -> None:
        self.library, self.extra = library, extra
        super().__init__(f'{library} is not installed; install it with: pip install "tidemill[{extra}]"')


class Corrupt(TidemillError):
    """Stored bytes are not what was stored."""


def _restore(kind: type[E], args: tuple[Any, ...], facts: dict[str, Any]) -> E:
    error = kind.__new__(kind, *args)
    vars(error).update(facts)
    return error
