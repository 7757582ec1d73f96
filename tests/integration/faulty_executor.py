"""The executor process with a replay executor that dies or hangs when a request asks for it.

Tests put `COMMAND` in the place of the executor process's own. A request asks by its token budget.
"""

import ctypes
import os
import signal
import sys

from mistralchat_server.executor import process
from mistralchat_server.executor.replay import ReplayExecutor
from mistralchat_server.executor.seam import StepResult

COMMAND = (sys.executable, __file__)

#: `max_completion_tokens` of a request that ends the process with its first step, or after some tokens.
DIES = 9_001
DIES_LATER = 9_002
#: Of one whose first step never ends, and never lets go of Python's global lock.
HANGS = 9_003
_LATER = 5


class FaultyExecutor(ReplayExecutor):
    def step(self) -> StepResult:
        for playing in self._playing.values():
            match playing.request.max_new_tokens:
                case value if value == DIES or (value == DIES_LATER and playing.position == _LATER):
                    os.kill(os.getpid(), signal.SIGKILL)
                case value if value == HANGS:
                    ctypes.PyDLL(None).sleep(3_600)
        return super().step()


if __name__ == "__main__":
    process.load = lambda settings: FaultyExecutor(settings.replay)
    sys.exit(process.main())
