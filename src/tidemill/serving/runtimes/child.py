"""The process of one model that may run code: it loads a bundle, answers what its worker sends, and ends with it.

python -m tidemill.serving.runtimes.child --fd 5 --bundle DIR --model delay@3 --deadline-s 10 --growth-bytes 1073741824
"""

import argparse
import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tidemill.core.codec import unpack
from tidemill.core.errors import Corrupt, TidemillError
from tidemill.core.signature import ModelSpec
from tidemill.core.values import replace
from tidemill.serving.outputs import pack_array
from tidemill.serving.runtimes.channel import LOAD_S, Channel, ChannelClosed, Told, unpack_feed
from tidemill.serving.runtimes.runtime import Columns, ModelFailed, Runtime, load_here

_OOM_SCORE = "500"  # when memory runs out, this process is to go before the workers


def main(argv: Sequence[str] | None = None) -> int:
    """Serve one model until the worker closes its side; return the exit code."""
    parser = argparse.ArgumentParser(prog="tidemill.serving.runtimes.child")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--deadline-s", type=float, required=True)
    parser.add_argument("--growth-bytes", type=int, required=True)
    options = parser.parse_args(argv)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Control-C reaches every process of a terminal; the worker decides what it means
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    channel = Channel(socket.socket(fileno=options.fd))
    # A worker that is killed while a model hangs cannot end it: the kernel does, whatever holds the interpreter.
    signal.setitimer(signal.ITIMER_REAL, 2 * LOAD_S)
    with suppress(ChannelClosed):
        try:
            runtime = load_here(options.bundle, unpack(channel.receive(), ModelSpec), model=options.model, threads=1)
        except TidemillError as error:
            channel.send(Told(refused=str(error), corrupt=isinstance(error, Corrupt)))
            return 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        channel.send(Told())
        _serve(channel, runtime, deadline_s=options.deadline_s, growth_bytes=options.growth_bytes)
    return 0


def _serve(channel: Channel, runtime: Runtime, *, deadline_s: float, growth_bytes: int) -> None:
    loaded_bytes = 0
    while True:
        columns, rows, whole = unpack_feed(channel.receive())
        signal.setitimer(signal.ITIMER_REAL, 2 * deadline_s)
        try:
            told = _asked(runtime, columns, rows, whole=whole)
        except ModelFailed as error:
            told = Told(failed=error.reason)
        except Exception as error:  # noqa: BLE001 (the edge of a process: user code)
            told = Told(failed=f"{type(error).__name__}: {error}")
        signal.setitimer(signal.ITIMER_REAL, 0)
        held = _memory_bytes()
        loaded_bytes = loaded_bytes or held  # the first answer warms up what loads late
        channel.send(replace(told, grown=held - loaded_bytes > growth_bytes))


def _asked(runtime: Runtime, columns: Columns, rows: int, *, whole: bool) -> Told:
    if not whole:
        return Told(scores=runtime.run(columns, rows).astype("<f8").tobytes())
    answer = runtime.answer(columns, rows)
    return Told(scores=answer.scores.astype("<f8").tobytes(), others=tuple(map(pack_array, answer.others)))


def _memory_bytes() -> int:
    """Return what this process holds of memory; the most that it ever held where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    sys.exit(main())
