"""From the command line alone: files of every known format become versions and endpoints, and each protocol answers for them."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.conftest import Said
from tests.services import end, free_port
from tidemill.client.inference import InferenceClient
from tidemill.core.clock import wait_until

Say = Callable[..., Said]
ROW = {"a": 1.0, "b": 2.0, "c": 0.5}
NAMES = tuple(ROW)


@pytest.fixture
def made(tmp_path: Path) -> dict[str, tuple[Path, float]]:
    """A file of each format, and the score that its own library gives the row."""
    import joblib
    import lightgbm
    import pandas as pd
    import skops.io
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    xgboost = pytest.importorskip("xgboost")
    rows = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    late = (rows[:, 0] + rows[:, 1] > 0).astype(int)
    frame, asked = pd.DataFrame(rows, columns=NAMES), pd.DataFrame([ROW]).astype(np.float32)
    line, named = LogisticRegression().fit(rows, late), LogisticRegression().fit(frame, late)
    trees = lightgbm.train({"objective": "binary", "verbose": -1, "num_threads": 1}, lightgbm.Dataset(frame, late), 3)
    boosted = xgboost.train({"objective": "binary:logistic", "nthread": 1}, xgboost.DMatrix(frame, late), 3)
    paths = {name: tmp_path / file for name, file in FILES.items()}
    paths["onnx"].write_bytes(to_onnx(line, rows[:1], options={"zipmap": False}).SerializeToString())
    trees.save_model(paths["lightgbm"])
    boosted.save_model(paths["xgboost"])
    joblib.dump(named, paths["joblib"])
    skops.io.dump(named, paths["skops"])
    (folder := paths["mlflow"]).mkdir()
    (folder / "model.txt").write_text(trees.model_to_string())
    (folder / "MLmodel").write_text(MLMODEL)
    tree, straight = float(trees.predict(asked)[0]), float(line.predict_proba(asked.to_numpy())[0, 1])
    scores = {"lightgbm": tree, "mlflow": tree, "xgboost": float(boosted.predict(xgboost.DMatrix(asked))[0])}
    return {name: (path, scores.get(name, straight)) for name, path in paths.items()}


FILES = {
    "onnx": "m.onnx", "lightgbm": "m.txt", "xgboost": "m.json", "joblib": "m.joblib", "skops": "m.skops", "mlflow": "folder",
}  # fmt: skip
SIGNATURE = json.dumps([{"type": "double", "name": name} for name in NAMES])
MLMODEL = f"""
flavors:
  lightgbm: {{data: model.txt, model_class: lightgbm.basic.Booster}}
  python_function: {{loader_module: mlflow.lightgbm}}
signature:
  inputs: '{SIGNATURE}'
  outputs: '[{{"type": "double"}}]'
"""


@pytest.mark.slow
def test_a_file_of_every_format_is_served_by_every_protocol(say: Say, tmp_path: Path, made: dict[str, tuple[Path, float]]) -> None:
    home = tmp_path / "home"
    assert say("init", home).code == 0
    for name, (path, _) in made.items():
        told = say("model", "register", name, path, "--home", home, *MORE.get(name, ()))
        assert told.code == 0, told.err
        assert f"{name}@1  " in told.out
        assert f"takes {', '.join(NAMES)}\nserve it with: tidemill endpoint create ENDPOINT --model {name}@1" in told.out
        beside = "\nit answers, beside its score: label (long), probabilities (float [-1, 2])\n"
        assert (beside in told.out) == (name == "onnx")
        if name == "lightgbm":
            assert say("endpoint", "create", name, "--model", "lightgbm@champion", "--home", home).code == 0
        else:
            assert say("endpoint", "create", name, "--model", f"{name}@1", "--home", home).code == 0
    port, serve_port = free_port(), free_port()
    command = [sys.executable, "-m", "tidemill", "up", "--home", str(home), "--port", str(port), "--serve-port", str(serve_port)]
    with (tmp_path / "up.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{serve_port}"
        with InferenceClient(url) as client:
            assert wait_until(client.ready, timeout_s=60), (tmp_path / "up.log").read_text()
            for name, (_, score) in made.items():
                found: dict[str, Any] = {
                    "short": client.predict(name, ROW).scores[0],
                    "tensors": client.predict(name, np.array([list(ROW.values())])).scores[0],
                }
                found["open inference"] = ask(f"{url}/v2/models/{name}/infer", INFERENCE)["outputs"][0]["data"][0]
                found["mlflow"] = ask(f"{url}/endpoints/{name}/invocations", {"dataframe_records": [ROW]})["predictions"][0]
                found["kserve"] = ask(f"{url}/v1/models/{name}:predict", {"instances": [ROW]})["predictions"][0]
                if name == "onnx":  # what MLflow itself gives: all that the file tells
                    assert [found[by]["label"] for by in ("mlflow", "kserve")] == [1, 1]
                    found |= {by: found[by]["probabilities"][1] for by in ("mlflow", "kserve")}
                assert found == dict.fromkeys(found, pytest.approx(score, abs=1e-5)), name
            answered = client.predict("onnx", ROW)[0]
            assert answered.label is True
        # What came true is told by command, too.
        labels = tmp_path / "labels.csv"
        labels.write_text(f"id,value\n{answered.id},1\n")
        told = say("predict", "feedback", labels, "--url", f"http://127.0.0.1:{port}", "--home", home)
        assert (told.code, told.out.strip()) == (0, "1 labels kept"), told.err
        rows = say("predict", "log", "onnx", "--home", home, "--json").json()["rows"]
        assert [row["label"] for row in rows if row["id"] == answered.id] == [1.0]
    finally:
        end(process)


MORE = {"onnx": ("--columns", "a,b,c", "--threshold", "0.5"), "lightgbm": ("--alias", "champion"), "joblib": ("--trust-pickle",)}
INFERENCE = {"inputs": [{"name": name, "shape": [1], "datatype": "FP64", "data": [value]} for name, value in ROW.items()]}


def ask(url: str, body: Any) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_what_cannot_be_registered_is_told(say: Say, fresh: Path, tmp_path: Path, made: dict[str, tuple[Path, float]]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.md").write_text("# nothing")
    (tmp_path / "broken.onnx").write_bytes(b"tree")
    (tmp_path / "broken.txt").write_text("tree\nversion=v4\n")
    for path, more, says in (
        (
            made["joblib"][0],
            (),
            "m.joblib is a pickle, which runs code when it is read; if you made it yourself, say so with --trust-pickle",
        ),
        (tmp_path / "nothing.onnx", (), "there is no file"),
        (tmp_path / "empty", (), "holds neither MLmodel nor model.json; expected an ONNX file"),
        (tmp_path / "notes.md", (), "notes.md was not understood; expected an ONNX file, LightGBM's text"),
        (tmp_path / "broken.onnx", (), "the file is not a model that ONNX Runtime can run"),
        (tmp_path / "broken.txt", (), "the file is not a model in LightGBM's text format"),
        (made["onnx"][0], ("--columns", "a,b"), "--columns names 2 columns; the model takes 3"),
        (made["xgboost"][0], ("--optional", "z"), "the model has no column 'z' (it has: a, b, c)"),
        (made["skops"][0], ("--columns", "c,b,a"), "the model was fitted on the columns a, b, c; leave --columns out"),
    ):
        told = say("model", "register", "delay", path, *more, "--home", fresh)
        assert (told.code, told.out) == (1, ""), path
        assert says in told.err
    assert "delay" not in say("model", "list", "--home", fresh).out
    assert say("endpoint", "create", "late", "--home", fresh).code == 2
