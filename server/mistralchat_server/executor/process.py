"""The executor process: reads its orders, loads an executor and runs the loop until the front end ends.

Started as `python -m mistralchat_server.executor.process FOLDER` with one line of JSON (`Orders`) on
standard input, which stays open: its end means that the front end is gone, however it went. FOLDER holds
the socket and all temporary files; a guardian process removes it then.
"""

import faulthandler
import logging
import os
import shutil
import signal
import sys

from ..places import places
from . import guardian
from .front_ends import FrontEnds
from .heartbeat import Heartbeat
from .loop import ExecutorLoop
from .orders import ExecutorSettings, Orders
from .replay import ReplayExecutor
from .seam import EngineDiedError, Executor, StartError
from .watchdog import STACK_SIGNAL

log = logging.getLogger(__name__)

_STDIN = 0


def load(settings: ExecutorSettings) -> Executor:
    """Loads the executor that is ordered. Raises `StartError`."""
    match settings.executor:
        case "replay":
            return ReplayExecutor(settings.replay)
        case "openvino":
            # Here and not above, since an engine takes seconds to import and only one is needed.
            try:
                from .openvino.executor import OpenVINOExecutor
            except ModuleNotFoundError as error:
                advice = 'pip install "mistralchat[openvino]"'
                raise StartError(f"The OpenVINO executor needs the module {error.name}: {advice}") from error
            if settings.model is None:
                raise StartError("The OpenVINO executor needs a model: give one with --model.")
            return OpenVINOExecutor(settings.model, settings.openvino)
        case "trtllm":
            from .trtllm.start import start

            if settings.model is None:
                raise StartError("The TensorRT-LLM executor needs a checkpoint: give --model or --engine.")
            return start(settings.model, settings.trtllm)


def _leave_signals_to_front_end() -> None:
    """A service manager may signal all processes; the front end alone decides when this one ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # Not SIG_IGN, which an engine's workers would inherit.
        signal.signal(number, lambda *_: None)


def main() -> int:
    """The process, from its orders to its end. Returns the exit code."""
    folder = sys.argv[1]
    _leave_signals_to_front_end()
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    # Unbuffered: a thread that waits in a buffered read would keep the interpreter from ending.
    with open(_STDIN, "rb", buffering=0, closefd=False) as stdin:
        line = stdin.readline()
    if not line:
        # The front end has ended before it could say anything.
        shutil.rmtree(folder, ignore_errors=True)
        return 0
    orders = Orders.model_validate_json(line)
    logging.basicConfig(
        level=orders.settings.log_level, format="%(asctime)s %(levelname)s executor: %(message)s"
    )
    guardian.watch_over(folder)
    # Tells where it was when it crashes, or when it hangs and is about to be killed.
    faulthandler.enable()
    faulthandler.register(STACK_SIGNAL)
    front_ends = FrontEnds(orders.endpoint, Heartbeat(orders.heartbeat))
    try:
        executor = load(orders.settings)
    except StartError as error:
        front_ends.start_failed(str(error))
        return 1
    front_ends.ready(executor.describe())
    try:
        ExecutorLoop(executor, front_ends.receive, front_ends.publish).run()
    except EngineDiedError as error:
        log.error("the engine died: %s", places(error))
        log.critical("%s", error)
        # What is left of an engine may hold threads that would keep this process from ending.
        os._exit(1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
