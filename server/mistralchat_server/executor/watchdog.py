"""Notices from outside that the executor's loop stands still."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable

#: Makes the executor process write to standard error where in Python each of its threads is.
STACK_SIGNAL = signal.SIGUSR2
#: Seconds that it gets for that: a signal is not answered.
_STACK_SECONDS = 0.5
#: Looks in each timeout, so that a hang is noticed at most a tenth later.
_LOOKS = 10
#: Seconds between two looks, at most.
_LONGEST_PAUSE = 1.0


async def end_hung(process: asyncio.subprocess.Process) -> None:
    """Has a process that hangs say where, then kills it. A stopped one says nothing."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(STACK_SIGNAL)
        await asyncio.sleep(_STACK_SECONDS)
        process.kill()
    await process.wait()


class Watchdog:
    """Counts the seconds in which `beats` does not change."""

    def __init__(self, beats: Callable[[], int], timeout: float) -> None:
        """`timeout` in seconds: the longest that a step may take."""
        self._beats = beats
        self._timeout = timeout
        self._pause = min(timeout / _LOOKS, _LONGEST_PAUSE)
        self._last_beats = beats()
        self._last_look: float | None = None
        #: Seconds since the last change.
        self.silence = 0.0

    async def hung(self) -> None:
        """Returns once the silence has lasted for the timeout."""
        while not self.look(time.monotonic()):  # noqa: ASYNC110  (memory wakes nobody)
            await asyncio.sleep(self._pause)

    def look(self, now: float) -> bool:
        """Takes the executor's pulse at `now`, in monotonic seconds; true if it hangs."""
        # A look that comes late says that this process stood still itself, and the executor perhaps with it,
        # as in a container that was paused. That time is not held against the executor.
        if self._last_look is not None:
            self.silence += min(now - self._last_look, 2 * self._pause)
        self._last_look = now
        if (beats := self._beats()) != self._last_beats:
            self._last_beats = beats
            self.silence = 0.0
        return self.silence >= self._timeout
