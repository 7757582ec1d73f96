"""The siblings as the first front end sees them: started, told of executors, drained, started again."""

import asyncio
import contextlib
import logging
import sys
import time
from dataclasses import dataclass
from itertools import count

from ..executor.child import ExecutorProcess
from ..executor.seam import StartError
from ..settings import Settings
from .orders import Awaiting, Begin, Connect, Drain, Order, Serving, answer_decoder, encoder

log = logging.getLogger(__name__)

#: Seconds before a sibling that has ended is started again.
_PAUSE = 1.0
#: One that has run for so many seconds was well; so many ends in a row of others are too many.
_WELL = 60.0
_MOST_ENDS = 5
#: Seconds that all siblings may take until they answer calls, before the server serves without them.
_PATIENCE = 30.0


@dataclass(eq=False)
class _Sibling:
    number: int
    process: asyncio.subprocess.Process
    serving: asyncio.Event

    def tell(self, order: Order) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(encoder.encode(order) + b"\n")


class Fleet:
    """All siblings of one server."""

    def __init__(self, size: int) -> None:
        """`size`: how many there shall be; 0 costs nothing."""
        self._size = size
        self._numbers = count(1)
        self._siblings: list[_Sibling] = []
        self._executor: ExecutorProcess | None = None
        self._keeping: list[asyncio.Task[None]] = []

    def start(self, settings: Settings) -> None:
        """Starts them, to listen where `settings` says, on ports that are given."""
        self._keeping = [asyncio.create_task(self._keep(settings), name="sibling") for _ in range(self._size)]

    async def failed(self) -> None:
        """Raises `StartError` once a sibling cannot be kept running."""
        if self._keeping:
            await asyncio.gather(*self._keeping)
        await asyncio.Event().wait()

    async def connect(self, executor: ExecutorProcess) -> None:
        """Connects all to an executor process that is ready, and waits until they answer calls."""
        self._executor = executor
        for sibling in self._siblings:
            self._connect(sibling, executor)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                while len(self._siblings) < self._size:  # noqa: ASYNC110  (they are being started)
                    await asyncio.sleep(0.05)
                await asyncio.gather(*(sibling.serving.wait() for sibling in self._siblings))

    def drain(self) -> None:
        """Has all of them refuse new calls, and end when their running ones have."""
        for task in self._keeping:
            task.cancel()
        for sibling in self._siblings:
            sibling.tell(Drain())

    async def ended(self) -> None:
        """Waits until all have ended after `drain`."""
        await asyncio.gather(*self._keeping, return_exceptions=True)
        await asyncio.gather(*(sibling.process.wait() for sibling in self._siblings))

    async def close(self) -> None:
        """Ends those that are left."""
        for sibling in self._siblings:
            if sibling.process.returncode is None:
                sibling.process.kill()
        await self.ended()

    async def _keep(self, settings: Settings) -> None:
        ends = 0
        while ends < _MOST_ENDS:
            since = time.monotonic()
            sibling = await self._start(settings)
            if self._executor is not None:
                self._connect(sibling, self._executor)
            code = await self._watch(sibling)
            self._siblings.remove(sibling)
            if self._executor is not None:
                self._executor.detach(sibling.number)
            ends = 1 if time.monotonic() - since > _WELL else ends + 1
            log.error("front end %d ended with %d; another takes its place", sibling.number, code)
            await asyncio.sleep(_PAUSE)
        raise StartError(f"A front end does not keep running: it ended {ends} times in a row, see above.")

    async def _start(self, settings: Settings) -> _Sibling:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "mistralchat_server.siblings.process",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        sibling = _Sibling(next(self._numbers), process, asyncio.Event())
        self._siblings.append(sibling)
        sibling.tell(Begin(sibling.number, settings.model_dump(mode="json")))
        return sibling

    async def _watch(self, sibling: _Sibling) -> int:
        assert sibling.process.stdout is not None
        while line := await sibling.process.stdout.readline():
            match answer_decoder.decode(line):
                case Awaiting(folder):
                    # There may be another executor by now, of which it has been told.
                    if self._executor is not None and self._executor.folder == folder:
                        self._executor.attach(sibling.number)
                case Serving():
                    sibling.serving.set()
        return await sibling.process.wait()

    @staticmethod
    def _connect(sibling: _Sibling, executor: ExecutorProcess) -> None:
        sibling.serving.clear()
        sibling.tell(Connect(executor.folder))
