"""The executor process: reads its orders, loads an executor and runs the loop until the front end ends.

Started as `python -m mistralchat_server.executor.process FOLDER` with one line of JSON (`Orders`) on
standard input, which stays open: its end means that the front end is gone, however it went. FOLDER holds
the socket and all temporary files, and is removed then.
"""

import logging
import os
import shutil
import sys
import threading

from ..places import places
from .front_ends import FrontEnds
from .loop import ExecutorLoop
from .orders import ExecutorSettings, Orders
from .replay import ReplayExecutor
from .seam import EngineDiedError, Executor, StartError

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


def _leave_with_front_end(folder: str) -> None:
    """Ends this process at once when standard input ends: nobody is left to wait for a step."""
    while os.read(_STDIN, 4096):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


def main() -> int:
    """The process, from its orders to its end. Returns the exit code."""
    folder = sys.argv[1]
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
    threading.Thread(
        target=_leave_with_front_end, args=(folder,), name="front-end-watch", daemon=True
    ).start()
    front_ends = FrontEnds(orders.endpoint)
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
