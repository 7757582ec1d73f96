"""The generator processes, seen from the command: starts them, shares calls out, gathers what they noted."""

import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType, TracebackType
from typing import Self, cast

from mistralchat.bench import generator
from mistralchat.bench.generator import Batch, Done, Failed, Progress, Stop
from mistralchat.bench.recording import Recording, merged
from mistralchat.cli._connection_options import ServerConnection

#: From the sharing out of calls to the first: all processes have theirs by then.
_LEAD_SECONDS = 0.1
#: Of requests through pipes, cautiously.
_BYTES_PER_SECOND = 50e6
#: How often Python looks for a signal, where waiting is not interrupted by one.
_WAIT_SECONDS = 0.5
_END_SECONDS = 5.0
_DIED = "a process of the load generator has died"

OnProgress = Callable[[Progress], None]


class BenchError(Exception):
    """Why nothing can be measured, in one sentence."""


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a number of calls."""

    recording: Recording
    seconds: float
    """From the beginning to the end of the last call."""
    interrupted: bool
    """By Ctrl-C. What was noted until then is there."""


class Workers:
    """Processes that make calls, each over connections of its own. They end with the `with` statement."""

    def __init__(self, connection: ServerConnection, processes: int, connections: int) -> None:
        """Returns once all connections are made. Raises `BenchError` where that fails."""
        # A fresh interpreter: gRPC does not survive a fork.
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes: list[SpawnProcess] = []
        # A terminal's Ctrl-C goes to all processes. These inherit that they ignore it.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            for index in range(processes):
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=generator.main, args=(theirs, connection, connections), name=f"generator-{index}"
                )
                process.start()
                theirs.close()
                self._pipes.append(ours)
                self._processes.append(process)
        finally:
            signal.signal(signal.SIGINT, before)
        try:
            for pipe in self._pipes:
                if isinstance(_receive(pipe), Failed):
                    raise BenchError(f"no connection to {connection.target}")
        except BaseException:
            self.close()
            raise

    def run(
        self,
        requests: Sequence[bytes],
        on_progress: OnProgress,
        *,
        callers: int = 0,
        due: Sequence[float] = (),
    ) -> Run:
        """Makes the calls: so many at a time, or each when it is due, in seconds from the beginning.

        Ctrl-C ends them. Raises `BenchError` where a process has died.
        """
        sharing_out = sum(map(len, requests)) / _BYTES_PER_SECOND
        start = time.perf_counter() + _LEAD_SECONDS + sharing_out
        count = min(len(self._pipes), callers or len(requests))
        busy = self._pipes[:count]
        for index, pipe in enumerate(busy):
            own_callers = callers // count + (index < callers % count)
            _send(pipe, Batch(list(requests[index::count]), start, own_callers, list(due[index::count])))
        done: list[Done] = []
        progress: dict[Connection, Progress] = {}
        told = False
        with _on_interrupt() as interrupted:
            while len(done) < count:
                if interrupted.is_set() and not told:
                    told = True
                    for pipe in busy:
                        _send(pipe, Stop())
                for ready in wait(busy, _WAIT_SECONDS):
                    pipe = cast(Connection, ready)
                    match _receive(pipe):
                        case Done() as last:
                            done.append(last)
                        case Progress() as news:
                            progress[pipe] = news
                            on_progress(_total(progress.values()))
        return Run(
            merged(last.recording for last in done),
            max(0.0, *(last.ended - start for last in done)),
            interrupted.is_set(),
        )

    def close(self) -> None:
        """Ends the processes."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(_END_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def _on_interrupt() -> Iterator[threading.Event]:
    """Ctrl-C sets the event instead of raising, in the middle of whatever it is; a second one raises."""
    interrupted = threading.Event()
    before = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        interrupted.set()

    signal.signal(signal.SIGINT, handle)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def _send(pipe: Connection, order: Batch | Stop) -> None:
    try:
        pipe.send(order)
    except OSError as error:
        raise BenchError(_DIED) from error


def _receive(pipe: Connection) -> object:
    try:
        return pipe.recv()
    except (EOFError, OSError) as error:
        raise BenchError(_DIED) from error


def _total(parts: Iterable[Progress]) -> Progress:
    parts = list(parts)
    return Progress(
        sum(part.answered for part in parts),
        sum(part.failed for part in parts),
        sum(part.messages for part in parts),
    )
