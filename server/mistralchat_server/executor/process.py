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
from collections.abc import Iterable

import zmq

from . import guardian
from .heartbeat import Heartbeat
from .loop import ExecutorLoop
from .messages import Command, Event, Ready, StartFailed, command_decoder, event_encoder
from .orders import ExecutorSettings, Orders
from .replay import ReplayExecutor
from .seam import EngineDiedError, Executor, StartError
from .watchdog import STACK_SIGNAL

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
    """The socket to the front end, and the sign of life that is given at every turn of the loop."""

    def __init__(self, endpoint: str, heartbeat: Heartbeat) -> None:
        self._heartbeat = heartbeat
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PAIR)
        self._socket.set_hwm(0)
        self._socket.setsockopt(zmq.SNDHWM, _HIGH_WATER)
        self._socket.connect(endpoint)

    def receive(self, wait: bool) -> Iterable[Command]:
        self._heartbeat.beat()
        if wait:
            while not self._socket.poll(Heartbeat.IDLE):
                self._heartbeat.beat()
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
    front_end = _FrontEnd(orders.endpoint, Heartbeat(orders.heartbeat))
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
        log.error("what the engine says of it", exc_info=error.__cause__)
        log.critical("%s", error)
        # What is left of an engine may hold threads that would keep this process from ending.
        os._exit(1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
