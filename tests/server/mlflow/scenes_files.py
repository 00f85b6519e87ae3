"""Calls about artifacts, among them paths that lead out."""

from tests.server.mlflow.scenes_runs import made, started
from tests.server.mlflow.sides import API, Side

PROXY = "/api/2.0/mlflow-artifacts/artifacts"
# As they stand in the request: what a client would have to take pains to send.
_OUT = (
    "../out", "a/../../out", "..", "%2e%2e/out", "%2e%2e%2fout", "a/%2e%2e/%2e%2e/out", "%252e%252e/out", "/etc/passwd", "%2fetc/passwd",
    "a%5c..%5cout",
    "C:/out", "C:%5cout", "a%23b", "file:///etc/passwd", "a//b", "a/./b", "%00",
)  # fmt: skip


def artifacts(side: Side) -> None:
    """Files in and out, listed and removed."""
    experiment = made(side, "artifacts")
    run = started(side, experiment)
    root = f"{PROXY}/{experiment}/{run}/artifacts"
    sent = (
        ("a.txt", b"hello"),
        ("sub/b.bin", bytes(range(256))),
        ("sub/deep/c d.txt", b""),
        ("sub/ü.txt", b"u"),
        ("MLmodel", b"flavors: {}"),
        ("big.bin", b"x" * 3_000_000),
    )
    for name, data in sent:
        with side.labelled(f"put {name}"):
            side.send("PUT", f"{root}/{name}", data=data)
            side.send("GET", f"{root}/{name}")
    with side.labelled("put again"):
        side.send("PUT", f"{root}/a.txt", data=b"other")
        side.send("GET", f"{root}/a.txt")
        side.send("GET", f"{root}/a.txt", headers={"Range": "bytes=1-3"})
        side.send("GET", f"{root}/a.txt", headers={"Range": "bytes=9-12"})
    below = f"{experiment}/{run}/artifacts"
    for path in (below, below + "/sub", below + "/sub/deep", below + "/a.txt", below + "/none", below + "/"):
        with side.labelled(f"list {path.partition('/artifacts')[2]}"):
            side.send("GET", PROXY, params={"path": path})
    for given in ({}, {"path": "sub"}, {"path": "a.txt"}, {"path": "none"}, {"path": "../.."}, {"path": "/etc"}):
        with side.labelled(f"list of run {given}"):
            side.send("GET", API + "/artifacts/list", params={"run_id": run, **given})
    with side.labelled("list of unknown run"):
        side.get(API + "/artifacts/list", run_id="0" * 32)
        side.get(API + "/artifacts/list")
    with side.labelled("get unknown"):
        side.send("GET", f"{root}/none")
        side.send("GET", "/get-artifact", params={"run_id": run, "path": "a.txt"})
        side.send("GET", "/get-artifact", params={"run_id": run, "path": "../a.txt"})
        side.send("GET", "/get-artifact", params={"run_id": "0" * 32, "path": "a.txt"})
    for name in ("sub/deep", "a.txt", "none"):
        with side.labelled(f"remove {name}"):
            side.send("DELETE", f"{root}/{name}")
            side.send("GET", PROXY, params={"path": below})


def ways_out(side: Side) -> None:
    """Paths that lead out of where files are kept."""
    for path in _OUT:
        for method in ("PUT", "GET", "DELETE"):
            with side.labelled(f"{method} {path}"):
                side.raw(method, f"{PROXY}/{path}", b"x" if method == "PUT" else b"")
        with side.labelled(f"list {path}"):
            side.raw("GET", f"{PROXY}?path={path}", b"")


SCENES = (artifacts, ways_out)
