"""What every runtime must do, as tests. A test class inherits `RuntimeConformance` and gives it bundles of its kind."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tidemill.core.errors import Corrupt, Invalid, NotPermitted
from tidemill.core.signature import Column, ModelSpec, Output, Signature
from tidemill.core.values import replace
from tidemill.serving.runtimes.runtime import RUNTIMES, Columns, ModelFailed, Runtime, load_runtime

ALL = tuple(RUNTIMES)


def example_spec(runtime: str, file: str) -> ModelSpec:
    """Return the spec of the example model: score = clip(0.1 * a + 0.01 * b, 0, 1), 0.5 where a is missing; NaN where b is 99."""
    inputs = (Column(name="a", kind="double"), Column(name="b", kind="long"))
    signature = Signature(inputs=inputs, outputs=(Column(name="score", kind="double"),))
    return ModelSpec(
        runtime=runtime,
        file=file,
        signature=signature,
        tensors={"x": ("a", "b")},
        output="score",
        threshold=0.5,
        request_columns=("a", "b"),
    )


class RuntimeConformance:
    """The law of `Runtime`. Give it the fixtures bundle (a folder with the example model) and spec (its `example_spec`)."""

    width: int | None = None  # of the model's own answer

    @pytest.fixture
    def bundle(self) -> Path:
        pytest.fail("a conformance test gives the fixture bundle")

    @pytest.fixture
    def spec(self) -> ModelSpec:
        pytest.fail("a conformance test gives the fixture spec")

    @pytest.fixture
    def runtime(self, bundle: Path, spec: ModelSpec) -> Runtime:
        return load_runtime(bundle, spec, trusted=[spec.runtime], model="example@1")

    def test_one_finite_score_a_row(self, runtime: Runtime) -> None:
        scores = runtime.run({"a": [1.0, 2.0, 30.0], "b": [1, 2, 3]}, 3)
        assert scores.dtype == np.float64
        np.testing.assert_allclose(scores, [0.11, 0.22, 1.0], atol=1e-6)
        np.testing.assert_allclose(runtime.run({"a": np.array([1.0]), "b": np.array([1.0])}, 1), [0.11], atol=1e-6)

    def test_missing_is_none_or_nan(self, runtime: Runtime) -> None:
        np.testing.assert_allclose(runtime.run({"a": [None, 1.0], "b": [7, 1]}, 2), [0.5, 0.11], atol=1e-6)
        np.testing.assert_allclose(runtime.run({"a": np.array([np.nan]), "b": [7]}, 1), [0.5], atol=1e-6)

    def test_columns_that_the_model_does_not_take_are_ignored(self, runtime: Runtime) -> None:
        np.testing.assert_allclose(runtime.run({"a": [1.0], "b": [1], "key": ["N1"]}, 1), [0.11], atol=1e-6)

    def test_a_score_that_is_no_number_is_a_failure(self, runtime: Runtime) -> None:
        with pytest.raises(ModelFailed, match=r"model example@1 failed: its score of row 1 is not a finite number"):
            runtime.run({"a": [1.0, 1.0], "b": [1, 99]}, 2)

    def test_equal_rows_get_equal_scores_alone_or_in_a_batch(self, runtime: Runtime) -> None:
        batch = runtime.run({"a": [0.5] * 50, "b": [3] * 50}, 50)
        assert set(batch.tolist()) == set(runtime.run({"a": [0.5], "b": [3]}, 1).tolist())

    def test_several_threads_may_run_it(self, runtime: Runtime) -> None:
        wrong: list[float] = []

        def work(number: int) -> None:
            for _ in range(50):
                score = runtime.run({"a": [float(number)], "b": [0]}, 1)[0]
                if abs(score - 0.1 * number) > 1e-6:
                    wrong.append(score)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong

    @pytest.fixture
    def beside(self, spec: ModelSpec) -> ModelSpec:
        """The spec with its own output beside the score: [n], or [n, width]."""
        return replace(spec, others=(Output(name="again", kind="double", width=self.width, source=spec.output),))

    def test_what_is_declared_beside_the_score_is_answered_with_it(self, bundle: Path, beside: ModelSpec) -> None:
        runtime = load_runtime(bundle, beside, trusted=ALL, model="example@1")
        rows: Columns = {"a": [1.0, 2.0, 30.0, None], "b": [1, 2, 3, 7]}
        scores, (again,) = runtime.answer(rows, 4)
        assert again.dtype == np.float64
        assert again.shape == ((4,) if self.width is None else (4, self.width))
        np.testing.assert_allclose(scores, [0.11, 0.22, 1.0, 0.5], atol=1e-6)
        np.testing.assert_array_equal(again.reshape(4, -1)[:, 0], scores)
        np.testing.assert_array_equal(runtime.run(rows, 4), scores)
        with pytest.raises(ModelFailed, match="is not a finite number"):
            runtime.answer({"a": [1.0], "b": [99]}, 1)

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"source": "nowhere"}, "no output 'nowhere'"),
            ({"width": 7}, r"its output 'again' has the shape \[1(, 1)?\]; its spec declares \[1, 7\]"),
        ],
    )
    def test_what_is_declared_and_not_so_is_refused(self, bundle: Path, beside: ModelSpec, change: dict[str, Any], says: str) -> None:
        wrong = replace(beside, others=(replace(beside.others[0], **change),))
        with pytest.raises((Invalid, ModelFailed), match=says):
            load_runtime(bundle, wrong, trusted=ALL, model="example@1").answer({"a": [1.0], "b": [1]}, 1)

    def test_a_runtime_that_is_not_trusted_is_refused(self, bundle: Path, spec: ModelSpec) -> None:
        with pytest.raises(NotPermitted, match=r"add .* to the setting trusted_runtimes"):
            load_runtime(bundle, spec, trusted=["another"], model="example@1")

    def test_a_missing_file_is_corrupt(self, bundle: Path, spec: ModelSpec, tmp_path: Path) -> None:
        with pytest.raises(Corrupt, match="register the model again"):
            load_runtime(tmp_path, spec, trusted=[spec.runtime], model="example@1")

    def test_a_file_that_is_no_model_is_refused_when_loaded(self, bundle: Path, spec: ModelSpec, tmp_path: Path) -> None:
        (tmp_path / spec.file.partition(":")[0]).write_bytes(b"\x00not a model(")
        with pytest.raises(Invalid, match="example@1"):
            load_runtime(tmp_path, spec, trusted=[spec.runtime], model="example@1")

    def test_an_unknown_runtime_is_refused(self, bundle: Path, spec: ModelSpec) -> None:
        with pytest.raises(Invalid, match="is not known"):
            load_runtime(bundle, replace(spec, runtime="abacus"), trusted=["abacus"], model="example@1")
