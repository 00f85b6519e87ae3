"""Programs that log to a run and come to all kinds of ends: `python programs.py WHAT URL`."""

import multiprocessing
import os
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import tidemill as tm


def say(what: object) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def forever(url: str) -> None:
    """Log until killed; say each hundredth step."""
    with tm.run("delay", name="forever", url=url) as run:
        say(run.id)
        for step in range(10_000_000):
            run.log(step=step, loss=float(step))
            if step % 100 == 0:
                say(step)
                time.sleep(0.01)


def forgetful(url: str) -> None:
    """Log and end without ending the run."""
    run = tm.run("delay", url=url)
    say(run.id)
    run.log(loss=1.0)


def failing(url: str) -> None:
    """Log and fail without a block around."""
    run = tm.run("delay", url=url)
    say(run.id)
    run.log(loss=1.0)
    raise RuntimeError("no\ndata")


def _part(run: tm.ActiveRun, rank: int) -> None:
    for step in range(100):
        run.log({f"rank{rank}": float(step), "shared": 1.0}, step=step)


def forking(url: str) -> None:
    """Log from children that are forked, while the parent logs too."""
    context = multiprocessing.get_context("fork")
    with tm.run("delay", url=url) as run:
        say(run.id)
        run.log(before=1.0)
        children = [context.Process(target=_part, args=(run, rank)) for rank in range(3)]
        for child in children:
            child.start()
        _part(run, 3)
        for child in children:
            child.join()
        run.log(after=1.0)


def bare_fork(url: str) -> None:
    """Log from a child of os.fork that is killed after what it logged is on disk."""
    with tm.run("delay", url=url) as run:
        say(run.id)
        child = os.fork()
        if child == 0:
            run.log(child=1.0)
            run._to().bring()
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        run.log(parent=1.0)


def _spawned(rank: int) -> int:
    with tm.run(resume=True) as run:
        _part(run, rank)
    return os.getpid()


def spawning(url: str) -> None:
    """Log from processes that know nothing but what the environment tells them."""
    with tm.run("delay", url=url) as run:
        say(run.id)
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
            list(pool.map(_spawned, range(4)))


def _detached(rank: int) -> None:
    run = tm.run(resume=True)
    _part(run, rank)  # and never ends it: the process does


def pooling(url: str) -> None:
    """Log from a fork server's children that do not end what they attached to."""
    context = multiprocessing.get_context("forkserver")
    with tm.run("delay", url=url) as run:
        say(run.id)
        children = [context.Process(target=_detached, args=(rank,)) for rank in range(2)]
        for child in children:
            child.start()
        for child in children:
            child.join()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that run in the background hand down one that is ignored
    globals()[sys.argv[1]](sys.argv[2])
