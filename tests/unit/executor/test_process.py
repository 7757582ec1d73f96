"""The executor process by itself."""

import subprocess
import sys

import pytest
import zmq

from mistralchat_server.executor.orders import ExecutorSettings, Orders

_MODULE = "mistralchat_server.executor.process"
_CANNOT_START = f"""
import sys
import {_MODULE} as process
from mistralchat_server.executor.seam import StartError

def load(settings):
    raise StartError("There is no engine.")

process.load = load
sys.exit(process.main())
"""


@pytest.mark.xfail(reason="it tells a traceback", strict=True, raises=AssertionError)
def test_without_orders_it_ends_without_a_word() -> None:
    # As when the front end is killed before it has given them.
    ended = subprocess.run(
        [sys.executable, "-m", _MODULE],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert b"Traceback" not in ended.stderr


@pytest.mark.xfail(reason="its socket is still open", strict=True, raises=subprocess.TimeoutExpired)
def test_when_it_cannot_start_it_ends_by_itself(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("s")
    with zmq.Context() as context, context.socket(zmq.PAIR) as front_end:
        front_end.linger = 0
        endpoint = f"ipc://{folder}/executor"
        front_end.bind(endpoint)
        with subprocess.Popen([sys.executable, "-c", _CANNOT_START], stdin=subprocess.PIPE) as process:
            assert process.stdin is not None
            settings = ExecutorSettings(executor="replay")
            orders = Orders(folder=str(folder), endpoint=endpoint, settings=settings)
            process.stdin.write(orders.model_dump_json().encode() + b"\n")
            process.stdin.flush()
            try:
                assert front_end.poll(30_000)
                assert process.wait(4) == 1
            finally:
                process.kill()
