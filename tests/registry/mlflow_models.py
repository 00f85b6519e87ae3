"""What MLflow writes beside a model."""

MLMODEL = b"""\
artifact_path: mlflow-artifacts:/1/models/m-0a/artifacts
flavors:
  python_function:
    env: {conda: conda.yaml, virtualenv: python_env.yaml}
    loader_module: mlflow.sklearn
    model_path: model.pkl
    predict_fn: predict
    python_version: 3.11.7
  sklearn:
    code: null
    pickled_model: model.pkl
    serialization_format: cloudpickle
    sklearn_version: 1.8.0
is_signature_from_type_hint: false
mlflow_version: 3.17.2
model_id: m-0a
model_size_bytes: 1036
model_uuid: m-0a
prompts: null
run_id: aa
signature:
  inputs: '[{"type": "double", "name": "wind", "required": true}, {"type": "string", "name": "carrier", "required": false}]'
  outputs: '[{"type": "tensor", "tensor-spec": {"dtype": "int64", "shape": [-1]}}]'
  params: null
type_hint_from_example: false
utc_time_created: '2026-11-20 10:00:00.000000'
"""
