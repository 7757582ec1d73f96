"""Which addresses only this machine can reach."""

import ipaddress
import socket

#: How gRPC writes the address of a Unix socket, which counts as local.
UNIX = "unix:"


def is_address(listen: str) -> bool:
    """Whether it is HOST:PORT or unix:PATH."""
    if listen.startswith(UNIX):
        return len(listen) > len(UNIX)
    host, _, port = listen.rpartition(":")
    return bool(host) and port.isascii() and port.isdigit() and int(port) <= 65_535


def is_local(listen: str) -> bool:
    """Whether only this machine can reach it. Raises OSError for a name that has no address."""
    if listen.startswith(UNIX):
        return True
    host = listen.rpartition(":")[0].removeprefix("[").removesuffix("]")
    # A name is as local as the least local of its addresses.
    return all(_is_loopback(str(place[0])) for *_, place in socket.getaddrinfo(host, None))


def _is_loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    inner = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (inner or parsed).is_loopback
