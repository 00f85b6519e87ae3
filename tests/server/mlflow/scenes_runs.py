"""Calls about experiments and runs, good and bad, the same for every server."""

import random
from typing import Any

from tests.server.mlflow.sides import API, Side

T0 = 1_700_000_000_000
JSON = {"Content-Type": "application/json"}


def made(side: Side, name: str, **more: Any) -> str:
    with side.labelled(f"make {name}"):
        found = side.post(API + "/experiments/create", {"name": name, **more})
    return str(found.get("experiment_id", ""))


def started(side: Side, experiment: str, **more: Any) -> str:
    with side.labelled("start a run"):
        return str(
            side.post(API + "/runs/create", {"experiment_id": experiment, "start_time": T0, "run_name": "r", **more})["run"]["info"][
                "run_id"
            ]
        )


def experiments(side: Side) -> None:
    """Names, tags, trash, searches and pages of experiments."""
    one = made(side, "one", tags=[{"key": "team", "value": "a"}, {"key": "odd key/x", "value": ""}])
    calls: list[tuple[str, str, str, Any]] = [
        ("create/again", "POST", "create", {"name": "one"}),
        ("create/nameless", "POST", "create", {}),
        ("create/empty", "POST", "create", {"name": ""}),
        ("create/null", "POST", "create", {"name": None}),
        ("create/number", "POST", "create", {"name": 5}),
        ("create/long", "POST", "create", {"name": "x" * 501}),
        ("create/longest", "POST", "create", {"name": "x" * 500}),
        ("create/odd", "POST", "create", {"name": "ü / 'quoted' \"name\" 🌊"}),
        ("create/place", "POST", "create", {"name": "elsewhere", "artifact_location": "s3://bucket/path"}),
        ("create/tag-twice", "POST", "create", {"name": "twice", "tags": [{"key": "a", "value": "1"}]}),
        ("create/bad-tag", "POST", "create", {"name": "bad tag", "tags": [{"key": "a//b", "value": "1"}]}),
        ("create/long-tag", "POST", "create", {"name": "long tag", "tags": [{"key": "a", "value": "v" * 20_001}]}),
        ("get/unknown", "GET", "get", {"experiment_id": "987654"}),
        ("get/word", "GET", "get", {"experiment_id": "abc"}),
        ("get/nothing", "GET", "get", {}),
        ("name/unknown", "GET", "get-by-name", {"experiment_name": "nobody"}),
        ("name/default", "GET", "get-by-name", {"experiment_name": "Default"}),
        ("rename", "POST", "update", {"experiment_id": one, "new_name": "uno"}),
        ("rename/taken", "POST", "update", {"experiment_id": one, "new_name": "elsewhere"}),
        ("rename/nothing", "POST", "update", {"experiment_id": one}),
        ("rename/unknown", "POST", "update", {"experiment_id": "987654", "new_name": "x"}),
        ("tag", "POST", "set-experiment-tag", {"experiment_id": one, "key": "k", "value": "v"}),
        ("tag/again", "POST", "set-experiment-tag", {"experiment_id": one, "key": "k", "value": "w"}),
        ("tag/keyless", "POST", "set-experiment-tag", {"experiment_id": one, "value": "w"}),
        ("tag/long-key", "POST", "set-experiment-tag", {"experiment_id": one, "key": "k" * 251, "value": "w"}),
        ("untag", "POST", "delete-experiment-tag", {"experiment_id": one, "key": "k"}),
        ("untag/again", "POST", "delete-experiment-tag", {"experiment_id": one, "key": "k"}),
        ("get", "GET", "get", {"experiment_id": one}),
        ("delete", "POST", "delete", {"experiment_id": one}),
        ("delete/again", "POST", "delete", {"experiment_id": one}),
        ("get/deleted", "GET", "get", {"experiment_id": one}),
        ("name/deleted", "GET", "get-by-name", {"experiment_name": "uno"}),
        ("tag/deleted", "POST", "set-experiment-tag", {"experiment_id": one, "key": "k", "value": "v"}),
        ("rename/deleted", "POST", "update", {"experiment_id": one, "new_name": "dos"}),
        ("run/deleted", "POST", "../runs/create", {"experiment_id": one, "start_time": T0}),
        ("restore", "POST", "restore", {"experiment_id": one}),
        ("restore/again", "POST", "restore", {"experiment_id": one}),
        ("delete/once more", "POST", "delete", {"experiment_id": one}),
        ("create/deleted", "POST", "create", {"name": "uno"}),
        ("delete/unknown", "POST", "delete", {"experiment_id": "987654"}),
        ("restore/unknown", "POST", "restore", {"experiment_id": "987654"}),
    ]
    for label, method, verb, given in calls:
        with side.labelled(f"experiments/{label}"):
            path = f"{API}/runs/create" if verb.startswith("..") else f"{API}/experiments/{verb}"
            side.send(method, path, **({"params": given} if method == "GET" else {"body": given}))


def experiment_search(side: Side) -> None:
    """Filters, orders, views and pages over experiments."""
    for number in range(6):
        made(side, f"found {number}", tags=[{"key": "team", "value": "ab"[number % 2]}, {"key": "n", "value": str(number)}])
    with side.labelled("search experiments/prepare"):
        side.post(API + "/experiments/delete", {"experiment_id": made(side, "found gone")})
    asked: list[dict[str, Any]] = [
        {"filter": "name = 'found 1'"}, {"filter": "name LIKE 'found %'"}, {"filter": "name ILIKE 'FOUND %'"},
        {"filter": "name != 'found 1'"},
        {"filter": "name IN ('found 1', 'found 2')"}, {"filter": "attribute.name = 'found 3'"}, {"filter": "tags.team = 'a'"},
        {"filter": "tags.team = 'a' AND name LIKE '%4'"}, {"filter": "tag.`n` = '3'"}, {"filter": "tags.\"n\" = '3'"},
        {"filter": "tags.n LIKE '%'"},
        {"filter": "tags.none = 'x'"}, {"filter": "creation_time > 0"}, {"filter": "creation_time < 5"},
        {"filter": "last_update_time >= 1"},
        {"filter": "name = found"}, {"filter": "name > 'a'"}, {"filter": "nothing = 'x'"}, {"filter": "name LIKE 5"}, {"filter": "name ="},
        {"filter": "tags.team = 'a' OR tags.team = 'b'"}, {"filter": "creation_time = 'x'"}, {"filter": "metrics.a > 1"},
        {"order_by": ["name"], "filter": "name LIKE 'found%'"}, {"order_by": ["name DESC"], "filter": "name LIKE 'found%'"},
        {"order_by": ["experiment_id ASC"], "filter": "name LIKE 'found%'"},
        {"order_by": ["creation_time"], "filter": "name LIKE 'found%'"},
        {"order_by": ["nothing"]}, {"order_by": ["name SIDEWAYS"]}, {"order_by": ["tags.team"]},
        {"view_type": "DELETED_ONLY", "filter": "name LIKE 'found%'"}, {"view_type": "ALL", "filter": "name LIKE 'found%'"},
        {"view_type": 2, "filter": "name LIKE 'found%'"}, {"max_results": 0}, {"max_results": -1}, {"max_results": 50_001},
        {"max_results": "x"},
        {"page_token": "bm9uc2Vuc2U="},
    ]  # fmt: skip
    for given in asked:
        with side.labelled(f"search experiments/{given}"):
            side.post(API + "/experiments/search", {"max_results": 100, **given})
    for path in ("post", "get"):
        token = ""
        for page in range(4):
            with side.labelled(f"search experiments/page {page} by {path}"):
                given = {"max_results": 2, "filter": "name LIKE 'found%'", "order_by": ["name"], "page_token": token}
                found = side.post(API + "/experiments/search", given) if path == "post" else side.get(API + "/experiments/search", **given)
            token = found.get("next_page_token", "")


def runs(side: Side) -> None:
    """The life of runs: what they begin with, how they change, trash."""
    experiment = made(side, "runs")
    create: list[tuple[str, dict[str, Any]]] = [
        ("plain", {"start_time": T0, "run_name": "named"}), ("nameless", {"start_time": T0}),
        ("user", {"start_time": T0, "user_id": "bob"}),
        ("name tag", {"start_time": T0, "tags": [{"key": "mlflow.runName", "value": "by tag"}]}),
        ("both names", {"start_time": T0, "run_name": "a", "tags": [{"key": "mlflow.runName", "value": "b"}]}),
        ("same names", {"start_time": T0, "run_name": "a", "tags": [{"key": "mlflow.runName", "value": "a"}]}),
        ("text time", {"start_time": str(T0)}), ("word time", {"start_time": "soon"}), ("timeless", {}),
        ("before time", {"start_time": -5}),
        ("unknown", {"experiment_id": "987654"}), ("word", {"experiment_id": "abc"}), ("nothing", {"experiment_id": ""}),
        ("tags no list", {"start_time": T0, "tags": {"a": "b"}}), ("long name", {"start_time": T0, "run_name": "n" * 300}),
    ]  # fmt: skip
    for label, given in create:
        with side.labelled(f"create run/{label}"):
            side.post(API + "/runs/create", {"experiment_id": experiment, **given})
    run = started(side, experiment, tags=[{"key": "mlflow.user", "value": "ann"}, {"key": "x", "value": "1"}])
    calls: list[tuple[str, str, str, dict[str, Any]]] = [
        ("get", "GET", "get", {"run_id": run}), ("get/old word", "GET", "get", {"run_uuid": run}), ("get/nothing", "GET", "get", {}),
        ("get/unknown", "GET", "get", {"run_id": "0" * 32}), ("get/odd", "GET", "get", {"run_id": "../../etc"}),
        ("update/finish", "POST", "update", {"run_id": run, "status": "FINISHED", "end_time": T0 + 5000}),
        ("update/reopen", "POST", "update", {"run_id": run, "status": "RUNNING"}),
        ("update/fail", "POST", "update", {"run_id": run, "status": "FAILED", "end_time": T0 + 6000}),
        ("update/kill by number", "POST", "update", {"run_id": run, "status": 5, "end_time": T0 + 6000}),
        ("update/schedule", "POST", "update", {"run_id": run, "status": "SCHEDULED"}),
        ("update/unknown status", "POST", "update", {"run_id": run, "status": "DANCING"}),
        ("update/name", "POST", "update", {"run_id": run, "run_name": "renamed"}),
        ("update/no name", "POST", "update", {"run_id": run, "run_name": ""}),
        ("update/unknown", "POST", "update", {"run_id": "0" * 32, "status": "FINISHED"}),
        ("update/nothing", "POST", "update", {"status": "FINISHED"}),
        ("tag/name", "POST", "set-tag", {"run_id": run, "key": "mlflow.runName", "value": "by tag"}),
        ("get/renamed", "GET", "get", {"run_id": run}),
        ("tag", "POST", "set-tag", {"run_id": run, "key": "a", "value": "b"}),
        ("tag/valueless", "POST", "set-tag", {"run_id": run, "key": "a2"}),
        ("tag/keyless", "POST", "set-tag", {"run_id": run, "value": "b"}),
        ("tag/odd key", "POST", "set-tag", {"run_id": run, "key": "a/../b", "value": "b"}),
        ("tag/colon", "POST", "set-tag", {"run_id": run, "key": "a:b c.d-e_f/g", "value": "b"}),
        ("tag/bad letter", "POST", "set-tag", {"run_id": run, "key": "a*b", "value": "b"}),
        ("tag/long key", "POST", "set-tag", {"run_id": run, "key": "k" * 251, "value": "b"}),
        ("tag/long value", "POST", "set-tag", {"run_id": run, "key": "long", "value": "v" * 9000}),
        ("tag/number", "POST", "set-tag", {"run_id": run, "key": "a", "value": 5}),
        ("untag", "POST", "delete-tag", {"run_id": run, "key": "a"}), ("untag/again", "POST", "delete-tag", {"run_id": run, "key": "a"}),
        ("param", "POST", "log-parameter", {"run_id": run, "key": "p", "value": "1"}),
        ("param/same", "POST", "log-parameter", {"run_id": run, "key": "p", "value": "1"}),
        ("param/other", "POST", "log-parameter", {"run_id": run, "key": "p", "value": "2"}),
        ("param/empty", "POST", "log-parameter", {"run_id": run, "key": "e", "value": ""}),
        ("param/keyless", "POST", "log-parameter", {"run_id": run, "value": "1"}),
        ("param/long", "POST", "log-parameter", {"run_id": run, "key": "l", "value": "v" * 6001}),
        ("param/long key", "POST", "log-parameter", {"run_id": run, "key": "k" * 251, "value": "1"}),
        ("get/logged", "GET", "get", {"run_id": run}),
        ("delete", "POST", "delete", {"run_id": run}), ("delete/again", "POST", "delete", {"run_id": run}),
        ("get/deleted", "GET", "get", {"run_id": run}), ("tag/deleted", "POST", "set-tag", {"run_id": run, "key": "a", "value": "b"}),
        ("param/deleted", "POST", "log-parameter", {"run_id": run, "key": "q", "value": "1"}),
        ("metric/deleted", "POST", "log-metric", {"run_id": run, "key": "q", "value": 1, "timestamp": T0}),
        ("update/deleted", "POST", "update", {"run_id": run, "status": "FINISHED"}),
        ("restore", "POST", "restore", {"run_id": run}), ("restore/again", "POST", "restore", {"run_id": run}),
        ("delete/unknown", "POST", "delete", {"run_id": "0" * 32}), ("restore/unknown", "POST", "restore", {"run_id": "0" * 32}),
        ("delete/nothing", "POST", "delete", {}),
        ("search/deleted", "POST", "search", {"experiment_ids": [experiment], "run_view_type": "DELETED_ONLY"}),
    ]  # fmt: skip
    for label, method, verb, given in calls:
        with side.labelled(f"runs/{label}"):
            side.send(method, f"{API}/runs/{verb}", **({"params": given} if method == "GET" else {"body": given}))


def logging(side: Side) -> None:
    """Metrics, params and tags one by one and in batches, up to and over every limit."""
    run = started(side, made(side, "logging"))
    metrics: list[tuple[str, dict[str, Any]]] = [
        ("plain", {"value": 0.5, "step": 3}), ("stepless", {"value": 1}), ("nan", {"value": "NaN"}), ("inf", {"value": "Infinity"}),
        ("-inf", {"value": "-Infinity"}), ("text", {"value": "0.25"}), ("word", {"value": "high"}), ("null", {"value": None}),
        ("valueless", {}), ("true", {"value": True}), ("big", {"value": 1.7e308}), ("tiny", {"value": 5e-324}),
        ("negative step", {"value": 1, "step": -4}),
        ("far step", {"value": 1, "step": 2**62}), ("too far step", {"value": 1, "step": 2**64}), ("text step", {"value": 1, "step": "7"}),
        ("half step", {"value": 1, "step": 1.5}), ("no time", {"value": 1, "timestamp": None}),
        ("before time", {"value": 1, "timestamp": -1}),
        ("far time", {"value": 1, "timestamp": 2**60}), ("empty key", {"key": "", "value": 1}), ("bad key", {"key": "a//b", "value": 1}),
        ("dotted key", {"key": "../up", "value": 1}), ("long key", {"key": "k" * 251, "value": 1}),
        ("odd key", {"key": "ü:μ/x y", "value": 1}),
        ("unknown run", {"run_id": "0" * 32, "value": 1}), ("no run", {"run_id": "", "value": 1}), ("again", {"value": 0.5, "step": 3}),
    ]  # fmt: skip
    for label, given in metrics:
        with side.labelled(f"log-metric/{label}"):
            side.post(API + "/runs/log-metric", {"run_id": run, "key": "m", "timestamp": T0, **given})
    batches: list[tuple[str, dict[str, Any]]] = [
        ("empty", {}), ("1000 metrics", {"metrics": _points(1000)}), ("1001 metrics", {"metrics": _points(1001)}),
        ("100 params", {"params": _texts(100, "p")}), ("101 params", {"params": _texts(101, "q")}),
        ("100 tags", {"tags": _texts(100, "t")}), ("101 tags", {"tags": _texts(101, "u")}),
        ("1001 in all", {"metrics": _points(950), "params": _texts(51, "r")}),
        ("param twice", {"params": [{"key": "d", "value": "1"}, {"key": "d", "value": "1"}]}),
        ("param rewritten", {"params": [{"key": "p1", "value": "other"}, {"key": "fresh", "value": "x"}]}),
        ("tag twice", {"tags": [{"key": "d", "value": "1"}, {"key": "d", "value": "2"}]}),
        ("name", {"tags": [{"key": "mlflow.runName", "value": "from a batch"}]}),
        ("keyless metric", {"metrics": [{"value": 1, "timestamp": T0}]}),
        ("valueless metric", {"metrics": [{"key": "a", "timestamp": T0}]}),
        ("timeless metric", {"metrics": [{"key": "a", "value": 1}]}), ("keyless param", {"params": [{"value": "1"}]}),
        ("keyless tag", {"tags": [{"value": "1"}]}), ("metrics no list", {"metrics": {"key": "a"}}),
        ("nan among them",
            {"metrics": [{"key": "n", "value": "NaN", "timestamp": T0, "step": 1}, {"key": "n", "value": 1, "timestamp": T0}]}),
        ("long values", {"params": [{"key": "long", "value": "v" * 7000}], "tags": [{"key": "long", "value": "v" * 9000}]}),
        ("bad key among good", {"metrics": [{"key": "good", "value": 1, "timestamp": T0}, {"key": "b*d", "value": 1, "timestamp": T0}]}),
        ("unknown run", {"run_id": "0" * 32}), ("odd run", {"run_id": "?"}), ("no run", {"run_id": ""}),
    ]  # fmt: skip
    for label, given in batches:
        with side.labelled(f"log-batch/{label}"):
            side.post(API + "/runs/log-batch", {"run_id": run, **given})
    with side.labelled("log-batch/all of it"):
        side.get(API + "/runs/get", run_id=run)


def histories(side: Side) -> None:
    """Histories whole, in pages, of several runs, thinned out."""
    experiment = made(side, "histories")
    one, other = started(side, experiment), started(side, experiment)
    chance = random.Random(5)
    for run in (one, other):
        points = [
            {"key": "h", "value": chance.random(), "timestamp": T0 + chance.randrange(40), "step": chance.randrange(30)} for _ in range(60)
        ]
        points += [
            {"key": "h", "value": "NaN", "timestamp": T0 + 3, "step": 3},
            {"key": "h", "value": "-Infinity", "timestamp": T0 + 3, "step": 4},
        ]
        with side.labelled("histories/log"):
            side.post(API + "/runs/log-batch", {"run_id": run, "metrics": points})
            side.post(API + "/runs/log-batch", {"run_id": run, "metrics": points[:10]})
    with side.labelled("histories/whole"):
        side.get(API + "/metrics/get-history", run_id=one, metric_key="h")
    token = ""
    for page in range(4):
        with side.labelled(f"histories/page {page}"):
            token = side.get(API + "/metrics/get-history", run_id=one, metric_key="h", max_results=20, page_token=token).get(
                "next_page_token", ""
            )
    asked: list[tuple[str, dict[str, Any]]] = [
        ("unknown key", {"run_id": one, "metric_key": "none"}), ("unknown run", {"run_id": "0" * 32, "metric_key": "h"}),
        ("keyless", {"run_id": one}), ("runless", {"metric_key": "h"}), ("zero", {"run_id": one, "metric_key": "h", "max_results": 0}),
        ("token from elsewhere", {"run_id": one, "metric_key": "h", "max_results": 3, "page_token": "bm9uc2Vuc2U="}),
    ]  # fmt: skip
    for label, given in asked:
        with side.labelled(f"histories/{label}"):
            side.get(API + "/metrics/get-history", **given)
    ajax = "/ajax-api/2.0/mlflow/metrics/get-history-bulk"
    many: list[tuple[str, dict[str, Any]]] = [
        ("two", {"run_id": [one, other], "metric_key": "h"}), ("some", {"run_id": [one], "metric_key": "h", "max_results": 5}),
        ("none", {"metric_key": "h"}), ("keyless", {"run_id": [one]}), ("unknown", {"run_id": ["0" * 32], "metric_key": "h"}),
        ("too many", {"run_id": ["0" * 32] * 101, "metric_key": "h"}),
    ]  # fmt: skip
    for label, given in many:
        with side.labelled(f"histories in bulk/{label}"):
            side.get(ajax, **given)
    thin: list[tuple[str, dict[str, Any]]] = [
        ("two", {"run_ids": [one], "max_results": 7}), ("all", {"run_ids": [one]}), ("one point", {"run_ids": [one], "max_results": 1}),
        ("steps", {"run_ids": [one], "start_step": 5, "end_step": 12}), ("backwards", {"run_ids": [one], "start_step": 12, "end_step": 5}),
        ("half", {"run_ids": [one], "start_step": 5}), ("too many points", {"run_ids": [one], "max_results": 2501}),
        ("no points", {"run_ids": [one], "max_results": 0}), ("no runs", {}), ("too many runs", {"run_ids": ["0" * 32] * 101}),
    ]  # fmt: skip
    for label, given in thin:
        with side.labelled(f"histories thinned/{label}"):
            side.get(API + "/metrics/get-history-bulk-interval", **{"metric_key": "h", **given})


def bodies(side: Side) -> None:
    """Bodies that are not what they should be."""
    run = started(side, made(side, "bodies"))
    path = API + "/runs/set-tag"
    whole = f'{{"run_id": "{run}", "key": "k", "value": "v"}}'
    sent: list[tuple[str, dict[str, Any]]] = [
        ("malformed", {"data": "{", "headers": JSON}), ("cut", {"data": whole[:-5], "headers": JSON}),
        ("empty", {"data": "", "headers": JSON}),
        ("twice encoded", {"data": '"' + whole.replace('"', '\\"') + '"', "headers": JSON}), ("null", {"data": "null", "headers": JSON}),
        ("array", {"data": "[]", "headers": JSON}), ("number", {"data": "17", "headers": JSON}),
        ("text", {"data": '"text"', "headers": JSON}),
        ("bytes", {"data": b"\xff\xfe\x00", "headers": JSON}), ("plain text", {"data": whole, "headers": {"Content-Type": "text/plain"}}),
        ("form", {"data": {"run_id": run}}), ("charset", {"data": whole, "headers": {"Content-Type": "application/json; charset=utf-8"}}),
        ("untyped", {"data": whole.encode(), "headers": {"Content-Type": None}}),
        ("unknown field", {"data": whole[:-1] + ', "more": 1}', "headers": JSON}),
        ("camel case", {"data": whole.replace("run_id", "runId"), "headers": JSON}),
        ("nul", {"data": whole.replace('"v"', '"a\\u0000b"'), "headers": JSON}),
    ]  # fmt: skip
    for label, more in sent:
        with side.labelled(f"bodies/{label}"):
            side.send("POST", path, **more)
    with side.labelled("bodies/nan without quotes"):
        data = f'{{"run_id": "{run}", "key": "m", "value": NaN, "timestamp": {T0}}}'
        side.send("POST", API + "/runs/log-metric", data=data, headers=JSON)
    for label, method, where in (
        ("unknown path", "GET", "/runs/dance"),
        ("unknown method", "DELETE", "/runs/get"),
        ("unknown post", "POST", "/runs/get"),
    ):
        with side.labelled(f"bodies/{label}"):
            side.send(method, API + where, headers=JSON)


def _points(count: int) -> list[dict[str, Any]]:
    return [{"key": f"b{number % 10}", "value": number, "timestamp": T0 + number, "step": number} for number in range(count)]


def _texts(count: int, letter: str) -> list[dict[str, str]]:
    return [{"key": f"{letter}{number}", "value": str(number)} for number in range(count)]


SCENES = (experiment_search, experiments, runs, logging, histories, bodies)
