"""The executor process as the front end sees it that starts it."""

import asyncio
import os
import shutil
import sys
import tempfile

from .client import ExecutorClient
from .messages import Attach, Close, Description, Detach
from .orders import ExecutorSettings, Orders
from .seam import StartError

#: Seconds that an executor process may take to end when asked to.
_CLOSE_SECONDS = 5.0


class ExecutorProcess:
    """One executor process, from its start to its end."""

    def __init__(self, settings: ExecutorSettings) -> None:
        """Raises `StartError` if there is no place for its sockets."""
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[None] | None = None
        #: All sockets and temporary files of the process.
        self.folder = tempfile.mkdtemp(prefix="mistralchat-")
        try:
            self.client = ExecutorClient(self.folder)
        except StartError:
            self._remove_folder()
            raise

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process is not None, "not started"
        return self._process.pid

    async def start(self) -> Description:
        """Starts the process and waits until the model is loaded. Raises `StartError`."""
        # A session of its own keeps a terminal's Ctrl-C from it: the front end decides when it ends.
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "mistralchat_server.executor.process",
            self.folder,
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,
            # What it leaves behind when it is killed is removed with the folder.
            env={**os.environ, "TMPDIR": self.folder},
        )
        assert self._process.stdin is not None
        orders = Orders(endpoint=self.client.endpoint, settings=self._settings)
        self._process.stdin.write(orders.model_dump_json().encode() + b"\n")
        self._watching = asyncio.create_task(self._watch(self._process), name="executor-watch")
        ready = asyncio.ensure_future(self.client.ready())
        await asyncio.wait((ready, self._watching), return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            return ready.result()
        ready.cancel()
        raise StartError(f"The executor process ended while loading, with {await self.client.gone()}.")

    def attach(self, number: int) -> None:
        """Connects another front end, whose `ExecutorClient` has this number and the same folder."""
        self.client.send(Attach(number, ExecutorClient.endpoint_of(self.folder, number)))

    def detach(self, number: int) -> None:
        """Forgets a front end that has ended."""
        self.client.send(Detach(number))

    async def close(self) -> None:
        """Ends the process, waiting a few seconds before it is killed. What is still open fails."""
        # Without a process it was cancelled before there was one.
        if self._process is not None and self._process.returncode is None:
            self.client.send(Close())
            try:
                await asyncio.wait_for(self._process.wait(), _CLOSE_SECONDS)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        if self._watching is not None:
            await self._watching
        self.client.lose("nobody having started it")
        self._remove_folder()

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        self.client.lose(_exit(await process.wait()))

    def _remove_folder(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _exit(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
