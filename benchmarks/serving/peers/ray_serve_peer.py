"""Ray Serve: `python ray_serve_peer.py FOLDER PORT`. One replica, one proxy."""

import signal
import sys
import threading

import ray
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=1, max_ongoing_requests=100, ray_actor_options={"num_cpus": 0.1})
class Trees:
    """The model behind /."""

    def __init__(self, here: str, folder: str) -> None:
        sys.path.insert(0, here)
        from session import Session

        self.session = Session(folder)

    async def __call__(self, request: Request) -> dict[str, object]:
        return {"predictions": self.session.of_tensor((await request.json())["inputs"][0])}


if __name__ == "__main__":
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    serve.start(
        http_options={"host": "127.0.0.1", "port": int(sys.argv[2])}, logging_config={"log_level": "ERROR", "enable_access_log": False}
    )
    serve.run(Trees.bind(sys.path[0], sys.argv[1]), route_prefix="/")
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    stopped.wait()
    serve.shutdown()
    ray.shutdown()
