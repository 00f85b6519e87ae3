"""Serving configs: what they refuse, and how they are published."""

import threading
from pathlib import Path

import pytest

from tests.serving.plant import NOW, landed_view
from tidemill.core.errors import Conflict, Invalid
from tidemill.core.ids import Digest
from tidemill.features.online import ReadPlan
from tidemill.serving.config import (
    EndpointConfig,
    EndpointOptions,
    KeyHash,
    RoutePolicy,
    ServingConfig,
    VariantConfig,
    config_path,
    load,
    read_states,
    save,
)

ONE = VariantConfig(name="one", model="m", version=1, bundle=Digest("0" * 64))
PLAN = ReadPlan(project="default", services=("delay@1",), views=(landed_view(),), features=("flights_2h",))


def endpoint(**more) -> EndpointConfig:
    return EndpointConfig(**{"name": "delay", "variants": (ONE,), "route": RoutePolicy(shares={"one": 1.0}), **more})


def config(generation: int = 1, **more) -> ServingConfig:
    return ServingConfig(generation=generation, published_at=NOW, **more)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    assert load(tmp_path) is None
    key = KeyHash(id="k", sha256="0" * 64, project="*", writes=True, expires_at=NOW)
    whole = config(
        endpoints=(endpoint(features=PLAN, options=EndpointOptions(threshold=0.3, cached_rows=5), shadows=("one",)),),
        views=(landed_view(),),
        keys=(key,),
    )
    assert save(tmp_path, whole) == config_path(tmp_path)
    assert load(tmp_path) == whole
    assert [path.name for path in config_path(tmp_path).parent.iterdir()] == ["config.json"]


def test_an_older_config_does_not_replace_a_newer_one(tmp_path: Path) -> None:
    save(tmp_path, config(5))
    with pytest.raises(Conflict, match="serving config 4 is older than 5"):
        save(tmp_path, config(4))
    save(tmp_path, config(5, endpoints=(endpoint(),)))
    assert load(tmp_path) == config(5, endpoints=(endpoint(),))


def test_readers_see_whole_configs_only(tmp_path: Path) -> None:
    save(tmp_path, config(1))
    done = threading.Event()
    faults: list[str] = []

    def read() -> None:
        while not done.is_set():
            try:
                load(tmp_path)
            except Invalid as error:
                faults.append(str(error))

    reader = threading.Thread(target=read)
    reader.start()
    for generation in range(2, 60):
        save(tmp_path, config(generation, endpoints=tuple(endpoint(name=f"e{number}") for number in range(generation))))
    done.set()
    reader.join()
    assert not faults


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "../x"}, "endpoint name"),
        ({"project": "a/b"}, "project name"),
        ({"variants": (ONE, ONE)}, "two variants of one name"),
        ({"route": RoutePolicy(shares={"two": 1.0})}, "routes to two, which it does not have"),
        ({"shadows": ("three",)}, "routes to three"),
    ],
)
def test_an_endpoint_that_makes_no_sense_is_refused(change, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        endpoint(**change)


def test_two_endpoints_of_one_name_are_refused() -> None:
    with pytest.raises(Invalid, match="two endpoints of one name"):
        config(endpoints=(endpoint(), endpoint()))
    both = config(endpoints=(endpoint(), endpoint(project="lab")))
    assert [each.key for each in both.endpoints] == ["delay", "lab/delay"]


def test_a_worker_that_has_ended_or_said_nonsense_is_not_counted(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "serve-0.json").write_text('{"pid": 999999999, "port": 1, "generation": 1, "ready": true}')
    (tmp_path / "run" / "serve-1.json").write_text("{")
    assert read_states(tmp_path) == {}
