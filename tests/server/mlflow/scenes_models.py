"""Calls about logged models, registered models and their versions."""

from typing import Any

from tests.server.mlflow.scenes_runs import T0, made, started
from tests.server.mlflow.sides import API, Side


def logged_models(side: Side) -> None:
    """The life of logged models, and searches for them."""
    experiment = made(side, "logged models")
    run = started(side, experiment)
    path = API + "/logged-models"
    with side.labelled("logged model/create"):
        info = side.post(path, {"experiment_id": experiment, "name": "first", "source_run_id": run, "model_type": "tree",
                                "params": [{"key": "a", "value": "1"}], "tags": [{"key": "t", "value": "x"}]})["model"]["info"]  # fmt: skip
    model = info["model_id"]
    calls: list[tuple[str, str, str, Any]] = [
        ("create/nameless", "POST", "", {"experiment_id": made(side, "nameless models")}),
        ("create/bad name", "POST", "", {"experiment_id": experiment, "name": "a/b"}),
        ("create/no experiment", "POST", "", {"name": "x"}),
        ("create/unknown experiment", "POST", "", {"experiment_id": "987654", "name": "x"}),
        ("get", "GET", f"/{model}", None), ("get/unknown", "GET", "/m-" + "0" * 32, None), ("get/odd", "GET", "/what", None),
        ("finish", "PATCH", f"/{model}", {"model_id": model, "status": "LOGGED_MODEL_READY"}),
        ("finish/by number", "PATCH", f"/{model}", {"model_id": model, "status": 3}),
        ("finish/nothing", "PATCH", f"/{model}", {"model_id": model}),
        ("finish/unknown", "PATCH", "/m-" + "0" * 32, {"model_id": "m-" + "0" * 32, "status": 2}),
        ("tags", "PATCH", f"/{model}/tags", {"tags": [{"key": "t", "value": "y"}, {"key": "u", "value": ""}]}),
        ("tags/unknown", "PATCH", "/m-" + "0" * 32 + "/tags", {"tags": [{"key": "t", "value": "y"}]}),
        ("untag", "DELETE", f"/{model}/tags/u", None), ("untag/again", "DELETE", f"/{model}/tags/u", None),
        ("params", "POST", f"/{model}/params", {"model_id": model, "params": [{"key": "b", "value": "2"}]}),
        ("files", "GET", f"/{model}/artifacts/directories", None), ("get/changed", "GET", f"/{model}", None),
    ]  # fmt: skip
    for label, method, rest, body in calls:
        with side.labelled(f"logged model/{label}"):
            side.send(method, path + rest, body)
    points: list[dict[str, Any]] = [
        {"key": "auc", "value": 0.5, "timestamp": T0, "step": 1, "model_id": model, "dataset_name": "d", "dataset_digest": "x"},
        {"key": "auc", "value": 0.7, "timestamp": T0 + 1, "step": 2, "model_id": model},
        {"key": "nan", "value": "NaN", "timestamp": T0, "model_id": model},
    ]  # fmt: skip
    for number, point in enumerate(points):
        with side.labelled(f"logged model/metric {number}"):
            side.post(API + "/runs/log-metric", {"run_id": run, **point})
    with side.labelled("logged model/metrics in a batch"):
        side.post(
            API + "/runs/log-batch", {"run_id": run, "metrics": [{**points[0], "key": "f1"}, {"key": "plain", "value": 1, "timestamp": T0}]}
        )
        side.send("GET", f"{path}/{model}")
        side.post(API + "/runs/outputs", {"run_id": run, "models": [{"model_id": model, "step": 2}]})
        side.post(API + "/runs/outputs", {"run_id": run})
        side.post(API + "/runs/log-inputs", {"run_id": run, "models": [{"model_id": model}]})
        side.get(API + "/runs/get", run_id=run)
    _model_search(side, experiment, run)
    for label, method, rest in (
        ("delete", "DELETE", model),
        ("get/deleted", "GET", model),
        ("delete/again", "DELETE", model),
        ("delete/unknown", "DELETE", "m-" + "0" * 32),
    ):
        with side.labelled(f"logged model/{label}"):
            side.send(method, f"{path}/{rest}")


def _model_search(side: Side, experiment: str, run: str) -> None:
    for number in range(5):
        with side.labelled(f"logged model/another {number}"):
            found = side.post(
                API + "/logged-models",
                {"experiment_id": experiment, "name": f"model {number}", "params": [{"key": "n", "value": str(number)}]},
            )
            side.post(API + "/runs/log-metric",
                {"run_id": run, "key": "auc", "value": number / 10, "timestamp": T0, "step": 0,
                    "model_id": found["model"]["info"]["model_id"],
                                                 "dataset_name": ("d", "e")[number % 2], "dataset_digest": "x"})  # fmt: skip
    asked: list[dict[str, Any]] = [
        {}, {"filter": "name = 'model 1'"}, {"filter": "name LIKE 'model%'"}, {"filter": "params.n = '3'"}, {"filter": "tags.t = 'y'"},
        {"filter": "metrics.auc > 0.2"}, {"filter": "metrics.auc > 0.2 AND params.n = '4'"}, {"filter": "attributes.name != 'model 1'"},
        {"filter": "creation_timestamp > 0"}, {"filter": "model_type = 'tree'"}, {"filter": "nothing = 'x'"},
        {"filter": "metrics.auc > 'x'"},
        {"filter": "name > 'a'"}, {"filter": "metrics.auc > 0 OR name = 'x'"}, {"datasets": [{"dataset_name": "e"}]},
        {"filter": "metrics.auc >= 0.1", "datasets": [{"dataset_name": "e", "dataset_digest": "x"}]},
        {"datasets": [{"dataset_digest": "x"}]},
        {"order_by": [{"field_name": "name"}]}, {"order_by": [{"field_name": "name", "ascending": False}]},
        {"order_by": [{"field_name": "metrics.auc"}]},
        {"order_by": [{"field_name": "metrics.auc", "ascending": False, "dataset_name": "d"}]}, {"order_by": [{"field_name": "nothing"}]},
        {"order_by": [{"field_name": "params.n"}]}, {"order_by": [{}]}, {"experiment_ids": []}, {"experiment_ids": ["987654"]},
        {"page_token": "bm9uc2Vuc2U="},
    ]  # fmt: skip
    for given in asked:
        with side.labelled(f"search logged models/{given}"):
            side.post(API + "/logged-models/search", {"experiment_ids": [experiment], **given})
    token = ""
    for page in range(4):
        with side.labelled(f"search logged models/page {page}"):
            body = {"experiment_ids": [experiment], "max_results": 2, "order_by": [{"field_name": "name"}], "page_token": token}
            token = side.post(API + "/logged-models/search", body).get("next_page_token", "")


def registry(side: Side) -> None:
    """Registered models: names, tags, aliases, trash."""
    path = API + "/registered-models"
    calls: list[tuple[str, str, str, Any]] = [
        ("create", "POST", "create", {"name": "reg", "description": "d", "tags": [{"key": "a", "value": "1"}]}),
        ("create/again", "POST", "create", {"name": "reg"}),
        ("create/nameless", "POST", "create", {}), ("create/odd", "POST", "create", {"name": "a model: with/odd letters"}),
        ("create/ok odd", "POST", "create", {"name": "a model, übrigens"}),
        ("get", "GET", "get", {"name": "reg"}), ("get/unknown", "GET", "get", {"name": "none"}), ("get/nothing", "GET", "get", {}),
        ("update", "PATCH", "update", {"name": "reg", "description": "other"}),
        ("update/unknown", "PATCH", "update", {"name": "none", "description": "x"}),
        ("tag", "POST", "set-tag", {"name": "reg", "key": "k", "value": "v"}),
        ("tag/unknown", "POST", "set-tag", {"name": "none", "key": "k", "value": "v"}),
        ("tag/keyless", "POST", "set-tag", {"name": "reg", "value": "v"}), ("untag", "DELETE", "delete-tag", {"name": "reg", "key": "k"}),
        ("untag/again", "DELETE", "delete-tag", {"name": "reg", "key": "k"}),
        ("rename", "POST", "rename", {"name": "reg", "new_name": "registered"}),
        ("rename/taken", "POST", "rename", {"name": "registered", "new_name": "a model, übrigens"}),
        ("rename/unknown", "POST", "rename", {"name": "none", "new_name": "x"}),
        ("alias/no version", "POST", "alias", {"name": "registered", "alias": "champion", "version": "1"}),
        ("alias/get", "GET", "alias", {"name": "registered", "alias": "champion"}),
        ("latest", "POST", "get-latest-versions", {"name": "registered"}),
        ("latest/unknown", "POST", "get-latest-versions", {"name": "none"}),
        ("search", "GET", "search", {"filter": "name = 'registered'"}), ("search/like", "GET", "search", {"filter": "name LIKE 'reg%'"}),
        ("search/tag", "GET", "search", {"filter": "tags.a = '1'"}), ("search/wrong", "GET", "search", {"filter": "nothing = 'x'"}),
        ("search/order", "GET", "search", {"order_by": ["name DESC"], "filter": "name LIKE '%e%'"}),
        ("search/too many", "GET", "search", {"max_results": 1001}),
        ("delete/unknown", "DELETE", "delete", {"name": "none"}),
    ]  # fmt: skip
    for label, method, verb, given in calls:
        with side.labelled(f"registered model/{label}"):
            side.send(method, f"{path}/{verb}", **({"params": given} if method == "GET" else {"body": given}))
    _versions(side)
    for label in ("delete", "delete/again"):
        with side.labelled(f"registered model/{label}"):
            side.send("DELETE", path + "/delete", {"name": "registered"})
    with side.labelled("registered model/create/after"):
        side.post(path + "/create", {"name": "registered"})


def _versions(side: Side) -> None:
    path, experiment = API + "/model-versions", made(side, "versions")
    run = started(side, experiment)
    folder = f"/api/2.0/mlflow-artifacts/artifacts/{experiment}/{run}/artifacts/model"
    with side.labelled("versions/files"):
        side.send("PUT", folder + "/MLmodel", data=b"flavors: {}\n")
        side.send("PUT", folder + "/data.txt", data=b"data")
    source = f"mlflow-artifacts:/{experiment}/{run}/artifacts/model"
    one = {"name": "registered", "version": "1"}
    calls: list[tuple[str, str, str, Any]] = [
        ("create", "POST", "create",
            {"name": "registered", "source": source, "run_id": run, "description": "v", "tags": [{"key": "a", "value": "1"}]}),
        ("create/second", "POST", "create", {"name": "registered", "source": source, "run_id": run}),
        ("create/unknown", "POST", "create", {"name": "none", "source": source}),
        ("create/nameless", "POST", "create", {"source": source}), ("create/sourceless", "POST", "create", {"name": "registered"}),
        ("create/local", "POST", "create", {"name": "registered", "source": "/etc"}),
        ("create/file", "POST", "create", {"name": "registered", "source": "file:///etc"}),
        ("create/up", "POST", "create", {"name": "registered", "source": source + "/../../../up", "run_id": run}),
        ("get", "GET", "get", one), ("get/unknown", "GET", "get", {**one, "version": "99"}),
        ("get/word", "GET", "get", {**one, "version": "x"}), ("get/nothing", "GET", "get", {}),
        ("update", "PATCH", "update", {**one, "description": "new"}), ("tag", "POST", "set-tag", {**one, "key": "k", "value": "v"}),
        ("tag/unknown", "POST", "set-tag", {**one, "version": "99", "key": "k", "value": "v"}),
        ("untag", "DELETE", "delete-tag", {**one, "key": "k"}),
        ("place", "GET", "get-download-uri", one), ("place/unknown", "GET", "get-download-uri", {**one, "version": "99"}),
        ("stage", "POST", "transition-stage", {**one, "stage": "Staging", "archive_existing_versions": False}),
        ("stage/production", "POST", "transition-stage", {**one, "stage": "production", "archive_existing_versions": False}),
        ("stage/other", "POST", "transition-stage", {**one, "version": "2", "stage": "Production", "archive_existing_versions": True}),
        ("stage/unknown", "POST", "transition-stage", {**one, "stage": "Heaven", "archive_existing_versions": False}),
        ("alias", "POST", "../registered-models/alias", {**one, "alias": "champion"}),
        ("alias/move", "POST", "../registered-models/alias", {**one, "version": "2", "alias": "champion"}),
        ("alias/get", "GET", "../registered-models/alias", {"name": "registered", "alias": "champion"}),
        ("alias/bad", "POST", "../registered-models/alias", {**one, "alias": "v3"}),
        ("alias/latest", "POST", "../registered-models/alias", {**one, "alias": "latest"}),
        ("alias/unknown version", "POST", "../registered-models/alias", {**one, "version": "99", "alias": "x"}),
        ("model", "GET", "../registered-models/get", {"name": "registered"}),
        ("latest", "POST", "../registered-models/get-latest-versions", {"name": "registered"}),
        ("latest/of stage", "GET", "../registered-models/get-latest-versions", {"name": "registered", "stages": ["Production"]}),
        ("search", "GET", "search", {"filter": "name = 'registered'"}), ("search/run", "GET", "search", {"filter": f"run_id = '{run}'"}),
        ("search/tag", "GET", "search", {"filter": "tags.a = '1'"}), ("search/wrong", "GET", "search", {"filter": "nothing = 'x'"}),
        ("search/order", "GET", "search", {"filter": "name = 'registered'", "order_by": ["version_number ASC"]}),
        ("search/page", "GET", "search", {"filter": "name = 'registered'", "max_results": 1}),
        ("alias/delete", "DELETE", "../registered-models/alias", {"name": "registered", "alias": "champion"}),
        ("alias/gone", "GET", "../registered-models/alias", {"name": "registered", "alias": "champion"}),
        ("delete", "DELETE", "delete", one), ("delete/again", "DELETE", "delete", one), ("get/deleted", "GET", "get", one),
    ]  # fmt: skip
    for label, method, verb, given in calls:
        with side.labelled(f"model version/{label}"):
            where = API + verb[2:] if verb.startswith("..") else f"{path}/{verb}"
            side.send(method, where, **({"params": given} if method == "GET" else {"body": given}))


SCENES = (logged_models, registry)
