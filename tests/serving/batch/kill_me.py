"""A batch job that is killed after so many shards: `python kill_me.py HOME SHARDS`. The next start goes on."""

import os
import signal
import sys
from pathlib import Path

from tidemill.govern.workspace import open_workspace
from tidemill.serving.batch import job

if __name__ == "__main__":
    home, after = Path(sys.argv[1]), int(sys.argv[2])
    heard: list[int] = []

    def watch(done: int, before: int, total: int, seconds: float) -> None:
        heard.append(done)
        if len(heard) == after:
            os.kill(os.getpid(), signal.SIGKILL)

    request = job.BatchRequest(to="scores", model="delay@1", data="rows", key="id", executor="inline", shard_rows=100)
    done = job.score_batch(open_workspace(home), request, watch=watch)
    sys.stdout.write(f"{done.resumed} {done.shards} {done.rows} {done.digest}")
