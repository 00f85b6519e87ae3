"""MLflow's scoring server: `python mlflow_peer.py FOLDER PORT`. One worker; the model's own flavour, ONNX."""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    folder, port = Path(sys.argv[1]), sys.argv[2]
    model = folder / "mlflow"
    if not model.exists():
        import mlflow.onnx
        import onnx

        options = {"intra_op_num_threads": 1, "inter_op_num_threads": 1}
        mlflow.onnx.save_model(onnx.load(folder / "model.onnx"), model, onnx_session_options=options)
    bin_folder = Path(sys.executable).parent
    os.environ["PATH"] = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"  # it looks for uvicorn there
    command = ["mlflow", "models", "serve", "-m", str(model), "-h", "127.0.0.1", "-p", port, "--env-manager", "local", "--workers", "1"]
    os.execv(bin_folder / "mlflow", command)
