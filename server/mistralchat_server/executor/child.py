"""The executor process as the front end sees it that starts it."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from typing import ClassVar

from . import heartbeat
from .client import ExecutorClient
from .heartbeat import Heartbeat
from .messages import Attach, Close, Description, Detach
from .orders import ExecutorSettings, Orders
from .seam import StartError
from .suspects import Suspects
from .watchdog import Watchdog, end_hung

#: Seconds that an executor process may take to end when asked to.
_CLOSE_SECONDS = 5.0
#: Seconds from the loss of its connection within which a process that is ending has ended.
_LOST_SECONDS = 0.5


class ExecutorProcess:
    """One executor process, from its start to its end, and the connection of the front end that starts it."""

    #: What is started; the process's folder is added.
    command: ClassVar[tuple[str, ...]] = (sys.executable, "-m", "mistralchat_server.executor.process")

    def __init__(self, settings: ExecutorSettings, step_timeout: float, suspects: Suspects) -> None:
        """`step_timeout` in seconds: a process whose loop stands still for longer hangs, and is killed.

        Raises `StartError` if there is no place for its sockets.
        """
        self._settings = settings
        self._step_timeout = step_timeout
        self._process: asyncio.subprocess.Process | None = None
        self._supervision: asyncio.Task[None] | None = None
        self._hung = False
        #: All sockets and temporary files of the process.
        self.folder = tempfile.mkdtemp(prefix="mistralchat-")
        try:
            self.client = ExecutorClient(self.folder, suspects)
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
        memory = heartbeat.create()
        try:
            # A session of its own keeps a terminal's Ctrl-C from it: the front end decides when it ends.
            self._process = await asyncio.create_subprocess_exec(
                *self.command,
                self.folder,
                stdin=asyncio.subprocess.PIPE,
                start_new_session=True,
                pass_fds=(memory,),
                # What it leaves behind when it is killed is removed with the folder.
                env={**os.environ, "TMPDIR": self.folder},
            )
            pulse = Heartbeat(memory)
        finally:
            os.close(memory)
        assert self._process.stdin is not None
        orders = Orders(endpoint=self.client.endpoint, heartbeat=memory, settings=self._settings)
        self._process.stdin.write(orders.model_dump_json().encode() + b"\n")
        ready = asyncio.create_task(self.client.ready())
        ended = asyncio.create_task(self._process.wait())
        try:
            await asyncio.wait((ready, ended), return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                raise StartError(f"The executor process ended while loading, with {_exit(ended.result())}.")
            description = ready.result()
        finally:
            ready.cancel()
            ended.cancel()
        watchdog = Watchdog(lambda: pulse.beats, self._step_timeout)
        self._supervision = asyncio.create_task(
            self._supervise(self._process, watchdog), name="executor-supervision"
        )
        return description

    def attach(self, number: int) -> None:
        """Connects another front end, whose `ExecutorClient` has this number and the same folder."""
        self.client.send(Attach(number, ExecutorClient.endpoint_of(self.folder, number)))

    def detach(self, number: int) -> None:
        """Forgets a front end that has ended."""
        self.client.send(Detach(number))

    async def close(self) -> str:
        """Ends the process, waiting a few seconds before it is killed, and says how it ended.

        What is still open fails.
        """
        if self._supervision is not None:
            self._supervision.cancel()
            await asyncio.gather(self._supervision, return_exceptions=True)
        # Without a process it was cancelled before there was one.
        how = "nothing" if self._process is None else await self._end(self._process)
        self.client.lose()
        self._remove_folder()
        return how

    async def _end(self, process: asyncio.subprocess.Process) -> str:
        if process.returncode is not None:
            return _exit(process.returncode)
        if self._hung:
            await end_hung(process)
            return f"a kill, since no step came to its end within {self._step_timeout:g} s"
        if self.client.description is not None:
            self.client.send(Close())
            patience = _CLOSE_SECONDS
        else:
            # It is loading and does not listen, or is ending, for which its connection is the first to go.
            patience = _LOST_SECONDS if self._supervision is not None else 0.0
        try:
            return _exit(await asyncio.wait_for(process.wait(), patience))
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            return "a kill, since it did not end by itself"

    async def _supervise(self, process: asyncio.subprocess.Process, watchdog: Watchdog) -> None:
        """Ends the connection when the process has ended, hangs or cannot be reached."""
        ended = asyncio.create_task(process.wait())
        hung = asyncio.create_task(watchdog.hung())
        lost = asyncio.create_task(self.client.disconnected())
        try:
            await asyncio.wait((ended, hung, lost), return_when=asyncio.FIRST_COMPLETED)
            self._hung = hung.done()
        finally:
            for task in (ended, hung, lost):
                task.cancel()
        self.client.lose()

    def _remove_folder(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _exit(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    by_whom = " (by hand, or for lack of memory: the kernel's log knows)" if code == -signal.SIGKILL else ""
    return f"signal {-code}{by_whom}"
