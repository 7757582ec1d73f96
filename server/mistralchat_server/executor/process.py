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
from collections.abc import Iterable

import zmq

from ..places import places
from .loop import ExecutorLoop
from .messages import Command, Event, Ready, StartFailed, command_decoder, event_encoder
from .orders import ExecutorSettings, Orders
from .replay import ReplayExecutor
from .seam import EngineDiedError, Executor, StartError

log = logging.getLogger(__name__)

_STDIN = 0
#: Iterations that may wait for the front end before the engine waits for it.
_HIGH_WATER = 1_000


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


class _FrontEnd:
    """The socket to the front end."""

    def __init__(self, endpoint: str) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PAIR)
        self._socket.set_hwm(0)
        self._socket.setsockopt(zmq.SNDHWM, _HIGH_WATER)
        self._socket.connect(endpoint)

    def receive(self, wait: bool) -> Iterable[Command]:
        if wait:
            yield command_decoder.decode(self._socket.recv())
        try:
            while True:
                yield command_decoder.decode(self._socket.recv(zmq.NOBLOCK))
        except zmq.Again:
            return

    def publish(self, event: Event) -> None:
        self._socket.send(event_encoder.encode(event))

    def close(self) -> None:
        """Returns once everything that was published is on its way."""
        self._socket.close()
        zmq.Context.instance().term()


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
    front_end = _FrontEnd(orders.endpoint)
    try:
        executor = load(orders.settings)
    except StartError as error:
        front_end.publish(StartFailed(str(error)))
        front_end.close()
        return 1
    front_end.publish(Ready(executor.describe()))
    try:
        ExecutorLoop(executor, front_end.receive, front_end.publish).run()
    except EngineDiedError as error:
        log.error("the engine died: %s", places(error))
        log.critical("%s", error)
        # What is left of an engine may hold threads that would keep this process from ending.
        os._exit(1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
