"""Scripts that know MLflow only: training autologged by four libraries, registered, loaded back by alias; all they get is the address."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

FRAME = """
import json, sys
import numpy as np
import mlflow

rng = np.random.default_rng(0)
X = rng.normal(size=(200, 4)).astype(np.float32)
y = (X[:, 0] + 0.5 * X[:, 1] > 0).astype(int)

{train}

client = mlflow.MlflowClient()
run = client.get_run(run.info.run_id)
name = "by-{library}"
version = mlflow.register_model(model_uri, name)
client.set_registered_model_alias(name, "champion", version.version)
back = load("models:/" + name + "@champion")
assert np.allclose(predict(back), expected), "the model that came back answers differently"
print(json.dumps({{"params": run.data.params, "metrics": run.data.metrics, "status": run.info.status, "version": version.version}}))
"""
TRAINING = {
    "sklearn": """
from sklearn.linear_model import LogisticRegression

mlflow.sklearn.autolog(log_input_examples=True)
with mlflow.start_run() as run:
    model = LogisticRegression(C=0.7).fit(X, y)
model_uri = f"models:/{mlflow.last_logged_model().model_id}"
load, predict, expected = mlflow.pyfunc.load_model, lambda found: found.predict(X), model.predict(X)
""",
    "lightgbm": """
import lightgbm

mlflow.lightgbm.autolog()
with mlflow.start_run() as run:
    data = lightgbm.Dataset(X, y)
    settings = {"objective": "binary", "num_leaves": 5, "verbose": -1, "num_threads": 1}
    model = lightgbm.train(settings, data, 5, valid_sets=[data], valid_names=["train"])
model_uri = f"models:/{mlflow.last_logged_model().model_id}"
load, predict, expected = mlflow.lightgbm.load_model, lambda found: found.predict(X), model.predict(X)
""",
    "xgboost": """
import xgboost

mlflow.xgboost.autolog()
with mlflow.start_run() as run:
    data = xgboost.DMatrix(X, y)
    model = xgboost.train({"objective": "binary:logistic", "max_depth": 3, "nthread": 1}, data, 5, evals=[(data, "train")])
model_uri = f"models:/{mlflow.last_logged_model().model_id}"
load, predict, expected = mlflow.xgboost.load_model, lambda found: found.predict(data), model.predict(data)
""",
    "lightning": """
import logging, warnings
import lightning
import torch

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def forward(self, x):
        return self.layer(x)

    def training_step(self, batch, _):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(self(batch[0])[:, 0], batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

mlflow.pytorch.autolog()
torch.manual_seed(0)
data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(y, dtype=torch.float32)), batch_size=50)
trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
model = Net()
with mlflow.start_run() as run:
    trainer.fit(model, data)
    info = mlflow.pytorch.log_model(torch.nn.Sequential(model.layer), name="net", input_example=X[:2])
model_uri = info.model_uri
load = mlflow.pyfunc.load_model
predict = lambda found: found.predict(X)
expected = model.layer(torch.tensor(X)).detach().numpy()
""",
}
NEEDED = {"lightning": ("torch", "lightning"), "xgboost": ("xgboost",)}
LOGGED = {
    "sklearn": ("C", "training_accuracy_score"),
    "lightgbm": ("num_leaves", "train-binary_logloss"),
    "xgboost": ("max_depth", "train-logloss"),
    "lightning": ("lr", "train_loss"),
}


@pytest.mark.parametrize("library", sorted(TRAINING))
def test_an_autologged_training_comes_back_by_alias(library: str, tidemill_url: str, tmp_path: Path) -> None:
    missing = [name for name in NEEDED.get(library, ()) if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed: too large for the lock file, continuous integration installs it beside")
    script = tmp_path / "train.py"
    script.write_text(FRAME.format(train=TRAINING[library], library=library))
    environment = {
        **os.environ, "MLFLOW_TRACKING_URI": tidemill_url, "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "true", "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.strip().splitlines()[-1])
    param, metric = LOGGED[library]
    assert param in told["params"]
    assert metric in told["metrics"]
    assert (told["status"], str(told["version"])) == ("FINISHED", "1")
