"""Keeps an executor process running: starts the next one when one has ended, and gives up in a crash loop."""

import asyncio
import logging
import time
from pathlib import Path

from .executor.child import ExecutorProcess
from .executor.client import ExecutorClient
from .executor.seam import StartError
from .executor.suspects import Suspects
from .rpc.outage import Outage
from .settings import Settings

log = logging.getLogger(__name__)

#: Seconds before an executor that has ended is started again; after the last the server gives up.
_BACK_OFF = (0.5, 1.0, 2.0, 4.0, 8.0)
#: An executor that has run so many seconds was well: the next end is a new one, not part of a loop.
_WELL = 60.0


class Supervisor:
    """The executor processes of one server, one after the other."""

    def __init__(self, settings: Settings, outage: Outage) -> None:
        """`outage` is told for how long there will be none."""
        self._settings = settings
        self._outage = outage
        self._suspects = Suspects()
        self._attempts = 0
        self._started_at = 0.0
        #: Seconds that the latest took to start.
        self._start_seconds = 0.0
        #: The one that runs at present, or ran last.
        self.process: ExecutorProcess | None = None

    async def next(self, model: Path | None) -> ExecutorClient:
        """Starts the first process; later ends what is left of the one before, and starts another.

        Raises `StartError` if it does not start, or ends again and again.
        """
        process = await (self._start(model) if self.process is None else self._restart(self.process, model))
        self._started_at = time.monotonic()
        self._outage.over(_BACK_OFF[min(self._attempts, len(_BACK_OFF) - 1)] + self._start_seconds)
        return process.client

    async def close(self) -> None:
        """Ends the present one."""
        if self.process is not None:
            await self.process.close()

    async def _start(self, model: Path | None) -> ExecutorProcess:
        process = ExecutorProcess(
            self._settings.executor_settings(model),
            step_timeout=self._settings.step_timeout_seconds,
            suspects=self._suspects,
        )
        began = time.monotonic()
        try:
            await process.start()
        except BaseException:
            await process.close()
            raise
        self._start_seconds = time.monotonic() - began
        self.process = process
        return process

    async def _restart(self, ended: ExecutorProcess, model: Path | None) -> ExecutorProcess:
        how = await ended.close()
        if time.monotonic() - self._started_at > _WELL:
            self._attempts = 0
        while self._attempts < len(_BACK_OFF):
            pause = _BACK_OFF[self._attempts]
            log.error("the executor ended with %s; starting it again in %.1f s", how, pause)
            self._outage.lasts(pause + self._start_seconds)
            await asyncio.sleep(pause)
            self._attempts += 1
            try:
                return await self._start(model)
            except StartError as error:
                how = f"the message: {error}"
        raise StartError(
            f"The executor does not keep running: it ended {self._attempts + 1} times in a row, "
            f"last with {how}. See what it said itself, above."
        )
