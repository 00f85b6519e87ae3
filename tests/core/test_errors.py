"""Every error travels between processes with its sentence and its facts."""

import copy
import pickle
from importlib import import_module
from pkgutil import walk_packages

import pytest

import tidemill
from tidemill.client.problems import Fault
from tidemill.core.errors import ExtraMissing, Invalid, NotFound, TidemillError
from tidemill.registry.aliases import AliasNotFound
from tidemill.serving.rows import RowsRefused


@pytest.mark.parametrize(
    "error",
    [
        NotFound("there is nothing"),
        ExtraMissing("ray", "ray"),
        AliasNotFound("delay", "champion", ["old"]),
        RowsRefused("delay", [Fault(row=0, column="a", fault="missing")], total=1),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize(
    "travel", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy], ids=["pickle", "copy", "deep"]
)
def test_an_error_arrives_as_it_left(error: TidemillError, travel) -> None:
    error.add_note("seen at the gate")
    there = travel(error)
    assert type(there) is type(error)
    assert (str(there), there.args, vars(there)) == (str(error), error.args, vars(error))


def test_an_invalid_input_is_a_value_error_for_decoders() -> None:
    there = pickle.loads(pickle.dumps(Invalid("not a number")))
    assert isinstance(there, ValueError)
    assert str(there) == "not a number"


@pytest.mark.slow
def test_no_error_of_the_house_has_a_way_of_its_own_to_pickle() -> None:
    for module in walk_packages(tidemill.__path__, "tidemill."):
        import_module(module.name)
    kinds, found = [TidemillError], set()
    while kinds:
        kind = kinds.pop()
        found.add(kind)
        kinds += kind.__subclasses__()
    assert len(found) > 40
    assert not [
        kind
        for kind in found
        if kind.__reduce__ is not TidemillError.__reduce__ or kind.__new__ not in (Exception.__new__, ValueError.__new__)
    ]
