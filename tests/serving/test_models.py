"""Models in memory: loaded once, gone with the last user, weighed, mended, and left out where they end the process."""

import gc
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving.plant import Plant, example_onnx, onnx_spec, python_spec
from tests.serving.runtimes.native import lightgbm_text, lightgbm_that_crashes, xgboost_json
from tidemill.core.codec import encode
from tidemill.core.digest import digest_bytes
from tidemill.core.values import replace
from tidemill.serving.config import VariantConfig
from tidemill.serving.metrics import process_memory_bytes
from tidemill.serving.models import CRASHES, QUARANTINE_S, LoadFailed, Models, crumbs_folder
from tidemill.serving.runtimes.conformance import example_spec
from tidemill.store.trees import put_tree


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path / "home")


def models(plant: Plant, **more: Any) -> Models:
    named = {"trusted": ("lightgbm", "onnx", "python"), "deadline_s": 10.0, "crumbs": crumbs_folder(plant.state) / "0", **more}
    return Models(lambda: plant.objects, plant.state / "serving" / "bundles", **named)


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Free nothing but what nobody holds: memory is to be there when it is needed, not when the collector looks."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
def test_a_model_is_loaded_once_and_goes_with_its_last_user(plant: Plant) -> None:
    held = models(plant)
    first, second = held.load(plant.variant("one")), held.load(plant.variant("two"))
    assert first.runtime is second.runtime
    assert (first.config.name, second.config.name) == ("one", "two")
    gone = weakref.ref(first.runtime)
    del first
    assert gone() is not None
    del second
    assert gone() is None
    assert held.size_bytes(plant.variant().bundle) > 0


@pytest.mark.parametrize(("runtime", "make"), [("lightgbm", lightgbm_text), ("xgboost", xgboost_json), ("python", None)])
@pytest.mark.usefixtures("uncollected")
def test_whatever_its_runtime_a_model_goes_with_its_last_user(plant: Plant, runtime: str, make: Callable[[], bytes] | None) -> None:
    variant = plant.variant(body="return columns['a']")
    if make is not None:
        spec = example_spec(runtime, "model.bin")
        variant = replace(variant, bundle=put_tree(plant.objects, {"model.bin": make(), "model.json": encode(spec)}))
    loaded = models(plant, trusted=(runtime,)).load(variant)
    gone = weakref.ref(loaded.runtime)
    del loaded
    assert gone() is None


def test_what_was_spoilt_on_the_disk_is_fetched_again(plant: Plant) -> None:
    variant = plant.variant()
    models(plant).load(variant)
    (plant.state / "serving" / "bundles" / variant.bundle / "model.onnx").write_bytes(b"spoilt")
    assert models(plant).load(variant).runtime.run({"a": [1.0], "b": [1.0]}, 1)[0] == pytest.approx(0.11, abs=1e-6)


def test_what_was_spoilt_before_it_was_stored_is_told_in_a_sentence(plant: Plant) -> None:
    bundle = put_tree(plant.objects, {"model.onnx": b"never a model", "model.json": encode(onnx_spec())})
    with pytest.raises(LoadFailed, match=r"model example@1 cannot be loaded: model.onnx of model example@1 is not a model that ONNX"):
        models(plant).load(replace(plant.variant(), bundle=bundle))


def test_each_way_not_to_load_is_one_class_with_its_reason(plant: Plant) -> None:
    with pytest.raises(LoadFailed, match=r"example@1 cannot be loaded: .*is not in"):
        models(plant).load(replace(plant.variant(), bundle=digest_bytes(b"never stored")))
    with pytest.raises(LoadFailed, match="add 'python' to the setting trusted_runtimes"):
        models(plant, trusted=("onnx",)).load(plant.variant(body="return columns['a']"))
    with pytest.raises(LoadFailed, match=r"cannot be loaded: it fails on a made-up row, ZeroDivisionError.*tidemill model show example@1"):
        models(plant).load(plant.variant(body="return 1 / 0"))
    spec = replace(python_spec(), file="model.py:nothing")
    with pytest.raises(LoadFailed, match=r"cannot be loaded: .*nothing"):
        models(plant).load(plant.variant(spec=spec, body="return columns['a']"))


def test_a_made_up_row_that_a_model_cannot_score_keeps_it_from_nothing(plant: Plant) -> None:
    assert models(plant).load(plant.variant(body="return columns['a'] * float('nan')")).spec.runtime == "python"


@pytest.mark.skipif(not process_memory_bytes(), reason="this system does not say what a process takes")
def test_a_model_weighs_what_it_takes_and_one_apart_what_its_process_takes(plant: Plant) -> None:
    held = models(plant, weigh=True)
    near, apart = held.load(plant.variant()), held.load(plant.variant(body="return columns['a']"))
    assert len(example_onnx()) <= near.model.size_bytes < 16 << 20, "its libraries are not its own"
    assert apart.model.size_bytes > 16 << 20


LOADING = """
import sys
from pathlib import Path
from tests.serving.plant import Plant
from tests.serving.test_models import crashing, models

plant = Plant(Path(sys.argv[1]))
models(plant).load(crashing(plant))
"""


def crashing(plant: Plant) -> VariantConfig:
    """Return a variant whose model ends the process that loads it."""
    spec = example_spec("lightgbm", "model.txt")
    bundle = put_tree(plant.objects, {"model.txt": lightgbm_that_crashes(), "model.json": encode(spec)})
    return VariantConfig(name="crashing", model="crashing", version=1, bundle=bundle)


@pytest.mark.slow
def test_a_model_that_ends_the_process_again_and_again_is_left_out_for_a_while(plant: Plant) -> None:
    variant = crashing(plant)
    crumb = crumbs_folder(plant.state) / "0" / variant.bundle
    for crashes in range(1, CRASHES + 1):
        done = subprocess.run([sys.executable, "-c", LOADING, str(plant.home)], capture_output=True, check=False)
        assert done.returncode == -signal.SIGSEGV, done.stderr
        assert len(crumb.read_text().split()) == crashes
    with pytest.raises(LoadFailed, match=f"the worker died {CRASHES} times in a row while loading it, so it is left out for 10 minutes"):
        models(plant).load(variant)
    good = plant.variant()
    assert models(plant).load(good).spec.runtime == "onnx"
    before = int((time.time() - QUARANTINE_S - 1) * 1e6)
    crumb = crumb.with_name(good.bundle)
    crumb.write_text("".join(f"{before}\n" for _ in range(CRASHES)))
    assert models(plant).load(good).spec.runtime == "onnx"
    assert not crumb.exists(), "one that was loaded is trusted again"
