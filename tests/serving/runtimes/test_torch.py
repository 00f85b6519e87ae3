"""TorchScript and exported programs keep the law, in a process of their own, and only where they are trusted."""

import io
from pathlib import Path

import numpy as np
import pytest

from tidemill.core.errors import Invalid
from tidemill.core.signature import ModelSpec, Output
from tidemill.core.values import replace
from tidemill.serving.block import Block
from tidemill.serving.runtimes.conformance import RuntimeConformance, example_spec
from tidemill.serving.runtimes.runtime import ModelFailed, Runtime, load_runtime

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


class Example(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = x[:, 0], x[:, 1]
        score = torch.clip(0.1 * a + 0.01 * b, 0.0, 1.0)
        score = torch.where(torch.isnan(a), torch.full_like(score, 0.5), score)
        return torch.where(b == 99, torch.full_like(score, float("nan")), score)


class Several(torch.nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x[:, 0] - y[:, 0], torch.cat([x, y], dim=1)


def script(module: torch.nn.Module) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(module), buffer)
    return buffer.getvalue()


def program(module: torch.nn.Module) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(module, (torch.ones(3, 2),), dynamic_shapes=({0: torch.export.Dim("n")},)), buffer)
    return buffer.getvalue()


class TorchConformance(RuntimeConformance):
    file = ""

    @pytest.fixture
    def spec(self) -> ModelSpec:
        return example_spec("torch", self.file)

    @pytest.fixture(scope="class")
    @classmethod
    def bundle(cls, tmp_path_factory) -> Path:
        folder = tmp_path_factory.mktemp("bundle")
        (folder / cls.file).write_bytes((program if cls.file.endswith("2") else script)(Example()))
        return folder

    @pytest.fixture(scope="class")
    @classmethod
    def started(cls, bundle: Path) -> Runtime:
        """One process for all of them: PyTorch takes seconds to import."""
        return load_runtime(bundle, example_spec("torch", cls.file), trusted=["torch"], model="example@1")

    @pytest.fixture
    def runtime(self, started: Runtime) -> Runtime:
        return started

    def test_a_block_goes_through(self, runtime) -> None:
        for kind in (np.float32, np.float64):
            found = runtime.run(Block(("a", "b"), np.array([[1, 1], [2, 2]], dtype=kind)), 2)
            np.testing.assert_allclose(found, [0.11, 0.22], atol=1e-6)


class TestTorchScript(TorchConformance):
    file = "model.pt"


class TestExportedProgram(TorchConformance):
    file = "model.pt2"


@pytest.mark.parametrize(("output", "index", "expected"), [("0", 0, [-1.0]), ("1", 1, [2.0]), ("score", 0, [-1.0])])
def test_one_of_several_answers_is_picked(tmp_path: Path, output: str, index: int, expected: list[float]) -> None:
    (tmp_path / "model.pt").write_bytes(script(Several()))
    spec = replace(example_spec("torch", "model.pt"), tensors={"x": ("a",), "y": ("b",)}, output=output, output_index=index)
    runtime = load_runtime(tmp_path, spec, trusted=["torch"], model="example@1")
    assert runtime.run({"a": [1.0], "b": [2.0]}, 1).tolist() == expected


def test_several_answers_are_told_together(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(script(Several()))
    others = (Output(name="both", kind="float", width=2, source="1"),)
    spec = replace(example_spec("torch", "model.pt"), tensors={"x": ("a",), "y": ("b",)}, output="0", others=others)
    scores, (both,) = load_runtime(tmp_path, spec, trusted=["torch"], model="example@1").answer({"a": [1.0, 3.0], "b": [2.0, 1.0]}, 2)
    assert (scores.tolist(), both.tolist()) == ([-1.0, 2.0], [[1.0, 2.0], [3.0, 1.0]])


def test_a_program_that_does_not_fit_the_rows_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(script(torch.nn.Linear(3, 1)))
    runtime = load_runtime(tmp_path, example_spec("torch", "model.pt"), trusted=["torch"], model="example@1")
    with pytest.raises(ModelFailed, match="RuntimeError"):
        runtime.run({"a": [1.0], "b": [2.0]}, 1)


def test_a_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 1), tmp_path / "model.pt")
    with pytest.raises(Invalid, match=r"model\.pt of model example@1 is neither TorchScript \(\.pt\) nor an exported program"):
        load_runtime(tmp_path, example_spec("torch", "model.pt"), trusted=["torch"], model="example@1")
