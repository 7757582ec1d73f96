"""One end of the connection between a front end and the executor process: whole messages, and no send waits.

A library for messages would have threads of its own at both ends. Where engine and front end share the
processor, each of them has to wait for it, and takes it from a step of the engine.
"""

import socket
import struct

_LENGTH = struct.Struct("<I")
#: Bytes taken at a time; what the C library allocates without asking the kernel.
_AT_A_TIME = 1 << 16


class Channel:
    """Messages of any size over a Unix socket, each with its length in four bytes before it."""

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = connected
        self._received = bytearray()
        self._unsent = bytearray()

    @property
    def unsent(self) -> bool:
        """Whether there is something for `flush`."""
        return bool(self._unsent)

    def fileno(self) -> int:
        """For who waits until it can be read from or, with something `unsent`, written to."""
        return self._socket.fileno()

    def send(self, message: bytes) -> None:
        """Sends a message, or keeps what there is no room for; without anybody at the other end drops it."""
        self._unsent += _LENGTH.pack(len(message))
        self._unsent += message
        self.flush()

    def flush(self) -> None:
        """Sends what was kept, as far as there is room."""
        try:
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            # The other end has gone, of which `receive` tells.
            self._unsent.clear()

    def receive(self) -> list[bytes]:
        """Messages that have arrived, perhaps not all. Raises `EOFError` once the other end has gone."""
        try:
            arrived = self._socket.recv(_AT_A_TIME)
        except BlockingIOError:
            return []
        except OSError:
            arrived = b""
        if not arrived:
            raise EOFError
        received = self._received
        received += arrived
        messages, start = [], 0
        while len(received) - start >= _LENGTH.size:
            begin = start + _LENGTH.size
            end = begin + _LENGTH.unpack_from(received, start)[0]
            if end > len(received):
                break
            messages.append(bytes(received[begin:end]))
            start = end
        del received[:start]
        return messages

    def close(self) -> None:
        """Ends the connection. What was kept is lost; what was sent arrives."""
        self._socket.close()
