"""The executor's sign of life: a counter in memory that it shares with the front end.

The front end cannot ask for one: an engine holds Python's global lock during a step, so that no thread of the
executor process could answer.
"""

import mmap
import os
import struct

_COUNT = struct.Struct("=Q")


def create() -> int:
    """Makes the shared memory. Returns its file descriptor; nothing of it is on disk."""
    descriptor = os.memfd_create("mistralchat-heartbeat")
    os.ftruncate(descriptor, _COUNT.size)
    return descriptor


class Heartbeat:
    """One end of it. The executor's loop beats at every turn, and several times a second while it is idle."""

    #: Most milliseconds between two beats of an executor that has nothing to do.
    IDLE = 250

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, _COUNT.size)
        self._beats = 0

    def beat(self) -> None:
        """Called by the executor process alone."""
        self._beats += 1
        _COUNT.pack_into(self._memory, 0, self._beats)

    @property
    def beats(self) -> int:
        """How many there have been, as either process sees it."""
        count: int
        (count,) = _COUNT.unpack_from(self._memory)
        return count
