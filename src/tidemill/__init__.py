"""Tidemill: data, features, training, checks, registry, release, serving, monitoring and retraining in one package."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# name -> "module:attribute", imported when first asked for, so that `import tidemill` loads the standard library only.
_NAMES: dict[str, str] = {
    "ActiveRun": "tidemill.client.active_run:ActiveRun",
    "Aggregation": "tidemill.features.views:Aggregation",
    "AsyncClient": "tidemill.client.inference:AsyncInferenceClient",
    "auc": "tidemill.stats.scores:auc",
    "BatchRequest": "tidemill.serving.batch.job:BatchRequest",
    "best_params": "tidemill.training.search:best_params",
    "blue_green_plan": "tidemill.deploy.plans:blue_green_plan",
    "budget_checks": "tidemill.training.evaluate:budget_checks",
    "bundle_model": "tidemill.training.fitted:bundle_model",
    "calibration_check": "tidemill.training.evaluate:calibration_check",
    "canary_plan": "tidemill.deploy.plans:canary_plan",
    "champion_check": "tidemill.training.evaluate:champion_check",
    "check_parity": "tidemill.training.export:check_parity",
    "CheckResult": "tidemill.checks.check:CheckResult",
    "Choice": "tidemill.training.tune:Choice",
    "Client": "tidemill.client.inference:InferenceClient",
    "ColumnRule": "tidemill.datasets.contracts:ColumnRule",
    "connect": "tidemill.client.client:connect",
    "Contract": "tidemill.datasets.contracts:Contract",
    "convert": "tidemill.core.codec:convert",
    "Evidence": "tidemill.checks.check:Evidence",
    "Feature": "tidemill.features.views:Feature",
    "FeatureService": "tidemill.features.views:FeatureService",
    "FeatureView": "tidemill.features.views:FeatureView",
    "FileSource": "tidemill.features.sources:FileSource",
    "features_get": "tidemill.features.lookup:features_get",
    "find_alias": "tidemill.registry.aliases:find_alias",
    "history": "tidemill.features.history:history",
    "history_to": "tidemill.features.history:history_to",
    "init_workspace": "tidemill.govern.workspace:init_workspace",
    "JoinedSource": "tidemill.features.sources:JoinedSource",
    "local_server": "tidemill.simulate.server:local_server",
    "model_spec": "tidemill.training.bundle:model_spec",
    "OnEvent": "tidemill.automate.rules:OnEvent",
    "OnSchedule": "tidemill.automate.rules:OnSchedule",
    "open_table": "tidemill.datasets.versions:open_table",
    "open_topic": "tidemill.store.table:open_topic",
    "open_workspace": "tidemill.govern.workspace:open_workspace",
    "parity_check": "tidemill.training.evaluate:parity_check",
    "pipeline": "tidemill.pipelines.step:pipeline",
    "PushSource": "tidemill.features.sources:PushSource",
    "put_table": "tidemill.pipelines.artifacts:put_table",
    "quality_check": "tidemill.training.evaluate:quality_check",
    "read_dataset": "tidemill.datasets.versions:read_version",
    "read_model": "tidemill.registry.aliases:read_version",
    "read_service": "tidemill.features.definitions:read_service",
    "read_spec": "tidemill.registry.bundles:read_spec",
    "read_tree": "tidemill.store.trees:read_tree",
    "Real": "tidemill.training.tune:Real",
    "register": "tidemill.registry.versions:register",
    "replace": "tidemill.core.values:replace",
    "RolloutPlan": "tidemill.deploy.plans:RolloutPlan",
    "Rule": "tidemill.automate.rules:Rule",
    "run": "tidemill.client.run:run",
    "run_pipeline": "tidemill.pipelines.engine:run_pipeline",
    "RunPipeline": "tidemill.automate.rules:RunPipeline",
    "save_bundle": "tidemill.training.fitted:save_bundle",
    "save_model": "tidemill.training.fitted:save_model",
    "score": "tidemill.training.model:score",
    "score_batch": "tidemill.serving.batch.job:score_batch",
    "score_bundle": "tidemill.training.evaluate:score_bundle",
    "seed": "tidemill.client.seeds:seed",
    "shadow_canary_plan": "tidemill.deploy.plans:shadow_canary_plan",
    "slices_check": "tidemill.training.evaluate:slices_check",
    "split_by_time": "tidemill.training.splits:split_by_time",
    "SqlRule": "tidemill.datasets.contracts:SqlRule",
    "SqlSource": "tidemill.features.sources:SqlSource",
    "Stage": "tidemill.deploy.plans:Stage",
    "StartRollout": "tidemill.automate.rules:StartRollout",
    "StreamSource": "tidemill.features.sources:StreamSource",
    "step": "tidemill.pipelines.step:step",
    "StepContext": "tidemill.pipelines.step:StepContext",
    "store_bundle": "tidemill.training.fitted:store_bundle",
    "store_model": "tidemill.training.fitted:store_model",
    "TidemillError": "tidemill.core.errors:TidemillError",
    "to_onnx": "tidemill.training.export:to_onnx",
    "train": "tidemill.training.model:train",
    "TrainedModel": "tidemill.training.model:TrainedModel",
    "TreeParams": "tidemill.training.trees:TreeParams",
    "tune": "tidemill.training.tune:tune",
    "tune_trees": "tidemill.training.search:tune_trees",
    "Whole": "tidemill.training.tune:Whole",
    "Workspace": "tidemill.govern.workspace:Workspace",
    "wrap_model": "tidemill.training.fitted:wrap_model",
    "write_bundle": "tidemill.training.bundle:write_bundle",
    "write_card": "tidemill.registry.cards:write_card",
}

__all__ = ["__version__", *sorted(_NAMES)]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'tidemill' has no attribute {name!r}")
    module, _, attribute = _NAMES[name].partition(":")
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
