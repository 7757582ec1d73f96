"""The server's processes on this machine, and the processor time that they take."""

import ipaddress
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

_EXECUTOR = "mistralchat_server.executor.process"


@dataclass(frozen=True, slots=True)
class ServerCpu:
    """Seconds of processor time, over all processes of a kind."""

    front_ends: float
    executor: float

    @property
    def total(self) -> float:
        """Both together."""
        return self.front_ends + self.executor

    def __add__(self, other: "ServerCpu") -> "ServerCpu":
        return ServerCpu(self.front_ends + other.front_ends, self.executor + other.executor)

    def __sub__(self, other: "ServerCpu") -> "ServerCpu":
        return ServerCpu(self.front_ends - other.front_ends, self.executor - other.executor)


class ServerProcesses:
    """A server: its front ends and its executor."""

    def __init__(self, roots: Iterable[psutil.Process]) -> None:
        self._roots = list(roots)
        # Of those that have ended too: what they took does not become less.
        self._front_ends: dict[psutil.Process, float] = {}
        self._executors: dict[psutil.Process, float] = {}

    @property
    def pids(self) -> list[int]:
        """Of all processes that were ever seen, front ends first."""
        return [process.pid for process in (*self._front_ends, *self._executors)]

    def cpu(self) -> ServerCpu:
        """What they have taken until now. Children are looked for anew, since executors can be replaced."""
        for process in self._alive():
            try:
                times = process.cpu_times()
                executor = process in self._executors or _EXECUTOR in process.cmdline()
            except psutil.Error:
                continue
            (self._executors if executor else self._front_ends)[process] = times.user + times.system
        return ServerCpu(sum(self._front_ends.values()), sum(self._executors.values()))

    def _alive(self) -> set[psutil.Process]:
        found: set[psutil.Process] = set()
        for root in self._roots:
            try:
                found |= {root, *root.children(recursive=True)}
            except psutil.Error:
                continue
        return found


def by_pid(pid: int) -> ServerProcesses:
    """The server that this process is or belongs to. Raises ValueError if there is none."""
    try:
        return ServerProcesses([psutil.Process(pid)])
    except psutil.Error as error:
        raise ValueError(f"there is no process {pid}") from error


def behind(target: str) -> ServerProcesses | None:
    """The server that listens at a HOST:PORT of this machine. None if it is elsewhere or cannot be seen."""
    host, _, port = target.rpartition(":")
    if not port.isdigit() or not _is_here(host.strip("[]")):
        return None
    try:
        listening = {
            connection.pid
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
            and connection.laddr
            and connection.laddr.port == int(port)
            and connection.pid is not None
        }
        roots = {_supervisor(psutil.Process(pid)) for pid in listening}
    except psutil.Error:
        return None
    return ServerProcesses(roots) if roots else None


def _is_here(host: str) -> bool:
    """Whether a server there is on this machine, by the address."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    own = {address.address for addresses in psutil.net_if_addrs().values() for address in addresses}
    return any(address in own or ipaddress.ip_address(address).is_loopback for address in found)


def _supervisor(process: psutil.Process) -> psutil.Process:
    """The outermost process of the same server: several front ends have a parent that starts them."""
    while (parent := process.parent()) is not None and _serves(parent):
        process = parent
    return process


def _serves(process: psutil.Process) -> bool:
    """Whether it runs `mistralchat serve`."""
    try:
        program, *arguments = process.cmdline()[1:]
    except (psutil.Error, ValueError):
        return False
    return os.path.basename(program) == "mistralchat" and arguments[:1] == ["serve"]
