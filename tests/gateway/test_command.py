"""The `mistralchat gateway` command: usage, signals, exit codes, what it says."""

import http.client
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from mistralchat_server.gateway.command import main

from .conftest import Gateway, Server, chat, eventually, free_port


def test_a_signal_ends_the_gateway_and_its_code_is_passed_on(replay_server: Server, gateway: Any) -> None:
    door = gateway([replay_server.address])
    door.process.send_signal(signal.SIGTERM)
    assert door.process.wait(30) == 0


def test_a_second_signal_ends_it_at_once(replay_server: Server, gateway: Any) -> None:
    door = gateway([replay_server.address])
    door.process.send_signal(signal.SIGINT)
    eventually(lambda: not _takes_requests(door), "it drains")
    door.process.send_signal(signal.SIGINT)
    assert door.process.wait(3) == 128 + signal.SIGKILL


def test_nothing_is_left_of_a_gateway_that_is_killed(replay_server: Server, gateway: Any) -> None:
    door = gateway([replay_server.address])
    door.process.kill()
    eventually(lambda: not _takes_requests(door), "SMG ends too", 15)


def _takes_requests(door: Gateway) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=5)
    try:
        connection.request("GET", "/readiness")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def test_a_signal_before_any_worker_is_ready(gateway: Callable[..., Gateway]) -> None:
    address = f"127.0.0.1:{free_port()}"
    door = gateway([address], wait=False)
    eventually(lambda: f"worker {address} cannot be reached" in door.log, "the gateway says so")
    door.process.send_signal(signal.SIGTERM)
    assert door.process.wait(10) == 128 + signal.SIGTERM


def test_one_worker_that_cannot_be_reached_is_told_of(
    replay_server: Server, gateway: Callable[..., Gateway]
) -> None:
    address = f"127.0.0.1:{free_port()}"
    door = gateway([address, replay_server.address])
    assert f"worker {address} cannot be reached" in door.log
    assert chat(door.client()).choices[0].message.content == "Hello"


def test_a_server_of_another_kind_is_refused(gateway: Callable[..., Gateway]) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    address = f"127.0.0.1:{free_port()}"
    server.add_insecure_port(address)
    server.start()
    try:
        door = gateway([address], wait=False)
        assert door.process.wait(30) == 1
        assert door.log.strip() == f"mistralchat gateway: Worker {address} is no mistralchat server."
    finally:
        server.stop(0).wait()


def test_a_port_that_is_taken(replay_server: Server, gateway: Callable[..., Gateway]) -> None:
    first = gateway([replay_server.address])
    second = gateway([replay_server.address], "--port", str(first.port), wait=False)
    assert second.process.wait(30) != 0


def test_without_smg_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['smg'] = None\n"
        "from mistralchat.cli import main\n"
        "sys.exit(main(['gateway', '--worker', '127.0.0.1:1']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert done.stderr == (
        'mistralchat gateway: the package smg is not installed: pip install "mistralchat[gateway]"\n'
    )


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--worker", "localhost"],
        ["--worker", "grpc://localhost:1"],
        ["--worker", "localhost:0"],
        ["--worker", "localhost:65536"],
        ["--worker", "localhost:1", "--listen", "80"],
        ["--worker", "localhost:1", "--policy", "random"],
    ],
)
def test_wrong_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
