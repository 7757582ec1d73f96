"""The executor process by itself."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mistralchat_server.executor import heartbeat
from mistralchat_server.executor.messages import StartFailed, event_decoder
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


def test_without_orders_it_ends_without_a_word_and_removes_its_folder(tmp_path: Path) -> None:
    # As when the front end is killed before it has given them.
    folder = tmp_path / "socket"
    folder.mkdir()
    ended = subprocess.run(
        [sys.executable, "-m", _MODULE, str(folder)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ended.stderr == b""
    assert not folder.exists()


def test_when_it_cannot_start_it_ends_by_itself(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("s")
    endpoint = f"{folder}/executor"
    with socket.socket(socket.AF_UNIX) as front_end:
        front_end.bind(endpoint)
        front_end.listen()
        front_end.settimeout(30)
        memory = heartbeat.create()
        with subprocess.Popen(
            [sys.executable, "-c", _CANNOT_START, str(folder)], stdin=subprocess.PIPE, pass_fds=(memory,)
        ) as process:
            assert process.stdin is not None
            settings = ExecutorSettings(executor="replay")
            orders = Orders(endpoint=endpoint, heartbeat=memory, settings=settings)
            process.stdin.write(orders.model_dump_json().encode() + b"\n")
            process.stdin.flush()
            try:
                connected, _ = front_end.accept()
                with connected:
                    connected.settimeout(30)
                    # The length of the message is before it.
                    told = event_decoder.decode(connected.recv(1_000)[4:])
                assert told == StartFailed("There is no engine.")
                assert process.wait(4) == 1
            finally:
                process.kill()
                os.close(memory)
