"""Modules of PyTorch become bundles."""

from pathlib import Path

import numpy as np
import pytest

from tidemill.core.errors import Invalid
from tidemill.serving.runtimes.runtime import load_runtime
from tidemill.training.fitted import bundle_model

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
ROWS = np.random.default_rng(2).normal(size=(50, 3))


def answered(made, folder: Path) -> np.ndarray:
    for name, data in made.files.items():
        (folder / name).write_bytes(data)
    runtime = load_runtime(folder, made.spec, trusted=[made.spec.runtime], model="net@1")
    return runtime.run({name: ROWS[:, place].tolist() for place, name in enumerate(("a", "b", "c"))}, 50)


def test_a_module_goes_out_as_onnx(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(), torch.nn.ReLU(), torch.nn.Linear(8, 1), torch.nn.Sigmoid())
    made = bundle_model(module, ROWS, columns=("a", "b", "c"))
    assert (made.spec.runtime, made.export.why) == ("onnx", "")
    assert module.training, "the caller's module is left as it was"
    expected = module.eval()(torch.tensor(ROWS, dtype=torch.float32)).detach().numpy()[:, 0]
    np.testing.assert_allclose(answered(made, tmp_path), expected, atol=1e-5)


class Eigen(torch.nn.Module):
    """Something that has no operator in ONNX."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvalsh(x[:, :, None] * x[:, None, :])[:, -1]


def test_what_onnx_has_no_operator_for_is_kept_as_a_program(tmp_path: Path) -> None:
    made = bundle_model(Eigen(), ROWS, columns=("a", "b", "c"))
    assert (made.spec.runtime, made.spec.file) == ("torch", "model.pt2")
    assert made.export.why.startswith("torch.onnx does not convert it: ")
    np.testing.assert_allclose(answered(made, tmp_path), (ROWS**2).sum(axis=1), rtol=1e-4)


def test_several_numbers_a_row_want_a_choice() -> None:
    with pytest.raises(Invalid, match="gives 2 numbers a row; say which is the score"):
        bundle_model(torch.nn.Linear(3, 2), ROWS)
    assert bundle_model(torch.nn.Linear(3, 2), ROWS, output_index=1).spec.output_index == 1
    with pytest.raises(Invalid, match="the module does not take rows of 3 numbers: RuntimeError"):
        bundle_model(torch.nn.Linear(4, 1), ROWS)
