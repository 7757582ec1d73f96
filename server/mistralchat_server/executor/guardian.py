"""A small process beside the executor that cleans up after it, whatever becomes of it or of the front end.

The executor process cannot do so itself while a step holds Python's global lock, and a step can hang.
"""

import contextlib
import os
import select
import shutil
import signal

_STDIN = 0
#: Seconds that processes which have been killed may take to be gone, before their folder is removed.
_KILLED = 5.0


def watch_over(folder: str) -> None:
    """Forks the guardian of this process, which must lead its process group and have no threads as yet.

    When standard input ends, the front end is gone: the guardian kills the group and removes `folder`. When
    this process ends first, however it does, the guardian kills what is left of its group: an engine's
    workers. Then it is done, and ends.
    """
    executor = os.getpid()
    assert os.getpgrp() == executor, "not the leader of its process group"
    alive, held_while_alive = os.pipe()
    if os.fork():
        os.close(alive)
        return
    try:
        os.close(held_while_alive)
        os.setsid()
        _wait_and_clean_up(executor, alive, folder)
    finally:
        os._exit(0)


def _wait_and_clean_up(executor: int, alive: int, folder: str) -> None:
    # Either becomes readable by ending: nothing is ever written to them.
    select.select([_STDIN, alive], [], [])
    with contextlib.suppress(ProcessLookupError):
        os.killpg(executor, signal.SIGKILL)
    front_end_is_gone = bool(select.select([_STDIN], [], [], 0)[0])
    if front_end_is_gone:
        select.select([alive], [], [], _KILLED)
        shutil.rmtree(folder, ignore_errors=True)
