import socket
from typing import Any

import pytest

from mistralchat_server.security.addresses import is_address, is_local


@pytest.mark.parametrize(
    "listen",
    [
        "127.0.0.1:1",
        "127.8.9.10:1",
        "[::1]:1",
        "[::ffff:127.0.0.1]:1",
        "localhost:1",
        "unix:/tmp/a",
        "unix:a",
    ],
)
def test_local(listen: str) -> None:
    assert is_address(listen)
    assert is_local(listen)


@pytest.mark.parametrize(
    "listen",
    ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[fe80::1%lo]:1", "[::ffff:10.0.0.1]:1", "[2001:db8::1]:1"],
)
def test_reachable_by_others(listen: str) -> None:
    assert is_address(listen)
    assert not is_local(listen)


def test_a_name_is_as_local_as_the_least_local_of_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    def addresses(*_: Any) -> list[Any]:
        return [(0, 0, 0, "", (address, 0)) for address in ("127.0.0.1", "10.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", addresses)
    assert not is_local("worker:1")


@pytest.mark.parametrize("listen", ["", "50051", ":50051", "a:b", "unix:", "a:65536", "a:²"])
def test_no_address(listen: str) -> None:
    assert not is_address(listen)
