"""A sibling: one more front end. Started as `python -m mistralchat_server.siblings.process`."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from pathlib import Path

from ..app import App
from ..executor.client import ExecutorClient
from ..executor.seam import StartError
from ..executor.suspects import Suspects
from ..settings import Settings
from .orders import Answer, Awaiting, Begin, Connect, Drain, Serving, encoder, order_decoder

log = logging.getLogger(__name__)


class _LentExecutors:
    """The connections to the executor processes that the first front end runs."""

    def __init__(self, number: int) -> None:
        self.folders: asyncio.Queue[str] = asyncio.Queue()
        self._number = number
        self._suspects = Suspects()
        self._watch: asyncio.Task[None] | None = None
        self._client: ExecutorClient | None = None

    async def next(self, model: Path | None) -> ExecutorClient:
        """Waits for the next executor process."""
        await self.close()
        folder = await self.folders.get()
        while True:
            client = ExecutorClient(folder, self._suspects, self._number)
            _tell(Awaiting(folder))
            ready = asyncio.create_task(client.ready())
            lost = asyncio.create_task(client.disconnected())
            newer = asyncio.create_task(self.folders.get())
            await asyncio.wait((ready, lost, newer), return_when=asyncio.FIRST_COMPLETED)
            if ready.done() and not newer.done():
                newer.cancel()
                self._client = client
                self._watch = asyncio.create_task(self._lose(client, lost), name="executor-watch")
                return client
            # It has ended, perhaps before it could attach this front end.
            for task in (ready, lost):
                task.cancel()
            client.lose()
            folder = await newer

    async def close(self) -> None:
        """Lets go of the present one."""
        if self._watch is not None:
            self._watch.cancel()
        if self._client is not None:
            self._client.lose()

    @staticmethod
    async def _lose(client: ExecutorClient, lost: asyncio.Task[None]) -> None:
        await lost
        client.lose()


async def _serve(stdin: asyncio.StreamReader) -> None:
    if not (line := await stdin.readline()):
        # The first front end has ended before it could say anything.
        return
    begin = order_decoder.decode(line)
    assert isinstance(begin, Begin), begin
    settings = Settings(**begin.settings)
    logging.basicConfig(
        level=settings.log_level,
        format=f"%(asctime)s %(levelname)s front end {begin.number}: %(message)s",
        stream=sys.stderr,
    )
    executors = _LentExecutors(begin.number)
    app = App(settings, executors, on_serving=lambda: _tell(Serving()))
    await app.start()
    obeying = asyncio.create_task(_obey(stdin, app, executors), name="orders")
    await app.run()
    obeying.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await obeying


async def _obey(stdin: asyncio.StreamReader, app: App, executors: _LentExecutors) -> None:
    while line := await stdin.readline():
        match order_decoder.decode(line):
            case Connect(folder):
                executors.folders.put_nowait(folder)
            case Drain():
                app.stop()
    # The first front end is gone, and with it the executor.
    os._exit(1)


def _tell(answer: Answer) -> None:
    os.write(1, encoder.encode(answer) + b"\n")


async def _main() -> int:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        # A service manager may signal all processes; the first front end alone decides when this one ends.
        loop.add_signal_handler(number, lambda: None)
    stdin = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    try:
        await _serve(stdin)
    except StartError as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(_main()))
