"""The SMG process: the flags that it is started with, and its supervision."""

import asyncio
import ctypes
import http.client
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from .workers import host_and_port

#: What differs from SMG's own defaults, each for a reason.
_FLAGS = {
    # A worker is asked whether it is well each few seconds, not each minute.
    "--health-check-interval-secs": "5",
    "--worker-startup-check-interval": "2",
    # What goes wrong is told, not each request.
    "--log-level": "warn",
}
_READY_INTERVAL = 0.2
#: Loaded here and not between fork and exec, where little is allowed.
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def command(listen: str, workers: Sequence[str], tokenizer: Path, more: Sequence[str]) -> list[str]:
    """The command line. SMG takes the last of flags that are given twice: `more` overrides all others."""
    host, port = host_and_port(listen)
    return [
        *(sys.executable, "-m", "smg", "launch"),
        *("--worker-urls", *(f"grpc://{worker}" for worker in workers)),
        *("--model-path", str(tokenizer)),
        *("--host", host, "--port", str(port)),
        # Metrics name the workers: they are for those who may also call the gateway.
        *("--prometheus-host", host),
        *(part for flag in _FLAGS.items() for part in flag),
        *more,
    ]


class Gateway:
    """A running SMG process. `signal` passes a signal on, a second one ends it at once."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """Use `start`."""
        self._process = process
        self._signalled = False

    @classmethod
    async def start(cls, arguments: Sequence[str]) -> "Gateway":
        """Starts the process."""
        # A session of its own keeps a terminal's Ctrl-C from it: it gets each signal once, from here.
        process = await asyncio.create_subprocess_exec(
            *arguments, start_new_session=True, preexec_fn=_end_with_parent
        )
        return cls(process)

    async def wait(self) -> int:
        """Waits for its end and returns its exit code as a shell has it. Ends it when cancelled."""
        try:
            code = await self._process.wait()
        finally:
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()
        return 128 - code if code < 0 else code

    def signal(self, number: int) -> None:
        """Passes a signal on."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL if self._signalled else number)
        self._signalled = True


def _end_with_parent() -> None:
    """Lets Linux end the process should this one be killed, so that no gateway is left unsupervised."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


async def ready(listen: str) -> None:
    """Waits until the gateway that listens there takes requests."""
    host, port = host_and_port(listen)
    while True:
        if await asyncio.to_thread(_is_ready, host, port):
            return
        await asyncio.sleep(_READY_INTERVAL)


def _is_ready(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", "/readiness")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
