"""Training runs in processes of their own, which may die: one program imports everything, each job is a fork of it.

A job is a name of a function of `llm_jobs` and its arguments; `world` processes run it, over gloo where there are
several. `start` gives a handle, `wait` the exit codes and what was printed, however the processes ended.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Long for what takes a second, short for a person who waits for a hang.
LIMIT_S = 60.0
POLL_S = 0.02
# Jobs that run at the same time; the others wait.
AT_ONCE = 2
# What a job's exception becomes.
FAILED = 3


@dataclass(frozen=True)
class Job:
    """A started job; `folder` holds what it writes."""

    folder: Path
    world: int

    def wait(self) -> Ended:
        """When all its processes have ended; AssertionError where they hang."""
        reply = self.folder / "ended.json"
        while not reply.exists():
            assert server().poll() is None, f"{self.folder.name}: the server is gone"
            time.sleep(POLL_S)
        codes = json.loads(reply.read_text(encoding="utf-8"))
        said = [
            (self.folder / f"said_{rank}.txt").read_text(errors="replace", encoding="utf-8")
            for rank in range(self.world)
        ]
        assert codes is not None, f"{self.folder.name}: hangs\n" + "\n".join(said)
        return Ended(codes, said)


@dataclass(frozen=True)
class Ended:
    """By rank: exit codes, −9 where killed, and all that was printed."""

    codes: list[int]
    said: list[str]

    def fine(self) -> None:
        """AssertionError with what was printed unless every process ended well."""
        assert self.codes == [0] * len(self.codes), "\n".join(self.said)


def start(folder: Path, function: str, world: int = 1, **arguments: Any) -> Job:
    """Run a function of `llm_jobs` with arguments that json knows, and `folder` as its first."""
    folder.mkdir(parents=True)
    job = {"function": function, "folder": str(folder), "world": world, "arguments": arguments}
    stream = server().stdin
    assert stream is not None
    stream.write(json.dumps(job) + "\n")
    stream.flush()
    return Job(folder, world)


@functools.cache
def server() -> subprocess.Popen[str]:
    """The program that forks; started once, ended with the tests."""
    root = Path(__file__).parents[2]
    path = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(root), str(root / "tests")])
    others = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CI": "1"}
    # Several processes would look for a GPU each.
    others["CUDA_VISIBLE_DEVICES"] = ""
    found = subprocess.Popen(
        [sys.executable, "-W", "ignore", __file__],
        stdin=subprocess.PIPE,
        text=True,
        cwd=root,
        env=os.environ | others,
        encoding="utf-8",
    )
    atexit.register(end, found)
    return found


def end(program: subprocess.Popen[str]) -> None:
    """Close what it reads from, upon which it ends."""
    assert program.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        program.stdin.close()
    program.wait()


def serve() -> None:
    """Fork a supervisor for each job; before any gradient, so that no thread is lost in a fork."""
    from helpers import llm_jobs

    # What is here stays: a collection in a fork would copy every page of it.
    gc.freeze()
    running = 0
    for line in sys.stdin:
        if running == AT_ONCE:
            os.wait()
            running -= 1
        if os.fork() == 0:
            supervise(llm_jobs, json.loads(line))
            os._exit(0)
        running += 1


def supervise(jobs: Any, job: dict[str, Any]) -> None:
    """Fork a job's processes, wait for all of them, and say how they ended: None where they had to be killed."""
    folder, world, port = Path(job["folder"]), job["world"], free_port()
    running = {fork(jobs, job, rank, port): rank for rank in range(world)}
    codes: dict[int, int] = {}
    limit = time.monotonic() + LIMIT_S
    while len(codes) < world and time.monotonic() < limit:
        for pid, rank in running.items():
            if rank not in codes:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    codes[rank] = os.waitstatus_to_exitcode(status)
        time.sleep(POLL_S)
    for pid, rank in running.items():
        if rank not in codes:
            os.kill(pid, signal.SIGKILL)
    reply = [codes[rank] for rank in range(world)] if len(codes) == world else None
    (folder / "ended.tmp").write_text(json.dumps(reply), encoding="utf-8")
    (folder / "ended.tmp").rename(folder / "ended.json")


def fork(jobs: Any, job: dict[str, Any], rank: int, port: int) -> int:
    """One process of a job; its id."""
    pid = os.fork()
    if pid:
        return pid
    with (Path(job["folder"]) / f"said_{rank}.txt").open("w", encoding="utf-8") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    if job["world"] > 1:
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": job["world"], "LOCAL_WORLD_SIZE": job["world"]}
        os.environ |= {name: str(x) for name, x in numbers.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    code = 0
    try:
        getattr(jobs, job["function"])(Path(job["folder"]), **job["arguments"])
    except BaseException:
        traceback.print_exc()
        code = FAILED
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


if __name__ == "__main__":
    serve()
