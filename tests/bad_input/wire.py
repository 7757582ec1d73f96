"""A plain socket that speaks as much HTTP/2 as a case wants, and says what the server makes of it."""

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import grpc
from h2.errors import ErrorCodes
from hpack import Decoder, Encoder
from hyperframe.frame import (
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
)

from ..conftest import Server

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
CHAT = "/mistralchat.v1.ChatService/Chat"
COUNT = "/mistralchat.v1.ChatService/CountTokens"
#: What nothing comes of.
OPEN = "the connection stays open"
_CLOSED = "the connection is closed"
_STATUS = {code.value[0]: code.name for code in grpc.StatusCode}
#: Seconds to wait for an answer, and for one that is not expected.
_PATIENCE = 20.0
_BRIEFLY = 0.25

Headers = list[tuple[str, str]]


def headers(path: str | None = CHAT, **changed: str | None) -> Headers:
    """Of a call; `changed` by name, `_` for `-` and `:method` as `method`; None leaves one out."""
    usual = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path or "",
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    if path is None:
        del usual[":path"]
    for name, value in changed.items():
        name = name.replace("_", "-")
        name = f":{name}" if f":{name}" in usual else name
        if value is None:
            del usual[name]
        else:
            usual[name] = value
    return list(usual.items())


def message(data: bytes, *, compressed: bool = False, length: int | None = None) -> bytes:
    """With gRPC's prefix, which may lie about the length."""
    return struct.pack(">BI", compressed, len(data) if length is None else length) + data


class Wire:
    """One connection."""

    def __init__(self, server: Server, *, greet: bool = True, settings: dict[int, int] | None = None) -> None:
        host, _, port = server.address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), _PATIENCE)
        self._received = b""
        self._decoder = Decoder()
        self._encoder = Encoder()
        if greet:
            self.raw(PREFACE)
            self.frames(SettingsFrame(0, settings=settings or {}))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection, whatever is still under way."""
        self._socket.close()

    def raw(self, data: bytes) -> None:
        """Sends bytes; that the server has closed the connection meanwhile shows in `outcome`."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(data)

    def frames(self, *frames: Frame) -> None:
        """Sends frames, at once."""
        self.raw(b"".join(frame.serialize() for frame in frames))

    def begin(self, stream_id: int, fields: Headers | None = None, *, ends: bool = False) -> HeadersFrame:
        """The frame that opens a call."""
        frame = HeadersFrame(stream_id, self._encoder.encode(fields or headers()))
        frame.flags.add("END_HEADERS")
        if ends:
            frame.flags.add("END_STREAM")
        return frame

    def call(self, data: bytes, fields: Headers | None = None, stream_id: int = 1) -> str:
        """Makes a call with `data` as its body and says what comes of it."""
        self.frames(self.begin(stream_id, fields))
        # In pieces that fit a frame and the window of a new stream.
        for start in range(0, max(len(data), 1), 16_000):
            body = DataFrame(stream_id, data[start : start + 16_000])
            if start + 16_000 >= len(data):
                body.flags.add("END_STREAM")
            self.frames(body)
        return self.outcome(stream_id)

    def outcome(self, stream_id: int = 1) -> str:
        """What comes of a stream, or of the connection."""
        for frame in self._frames(_PATIENCE):
            # Headers of all streams are decoded, as they share the table of what was sent before.
            fields = self._fields(frame)
            match frame:
                case HeadersFrame() if frame.stream_id == stream_id:
                    if "grpc-status" in fields:
                        return _STATUS[int(fields["grpc-status"])]
                    if fields.get(":status", "200") != "200":
                        return f"HTTP {fields[':status']}"
                case RstStreamFrame() if frame.stream_id == stream_id:
                    return f"RST_STREAM {ErrorCodes(frame.error_code).name}"
        return _CLOSED

    def outcome_of_connection(self) -> str:
        """What comes of the connection, where calls on it do not matter; `OPEN` if it answers a ping."""
        self.frames(PingFrame(0, opaque_data=b"are you?"))
        for frame in self._frames(_PATIENCE):
            match frame:
                case PingFrame() if "ACK" in frame.flags and frame.opaque_data == b"are you?":
                    return OPEN
        return _CLOSED

    def silence(self) -> str:
        """What comes of a connection on which the server has no reason to say a word."""
        self._socket.settimeout(_BRIEFLY)
        try:
            while received := self._socket.recv(65_536):
                self._received += received
        except TimeoutError:
            return OPEN
        except ConnectionResetError:
            pass
        return _CLOSED

    def closed(self) -> str:
        """Waits until the server closes a connection that it does not understand."""
        self._socket.settimeout(_PATIENCE)
        with contextlib.suppress(ConnectionResetError):
            while self._socket.recv(65_536):
                pass
        return _CLOSED

    def _frames(self, seconds: float) -> Iterator[Frame]:
        """What the server sends, until the connection ends."""
        end = time.monotonic() + seconds
        while True:
            while len(self._received) < 9:
                if not self._receive(end):
                    return
            frame, length = Frame.parse_frame_header(memoryview(self._received[:9]))
            while len(self._received) < 9 + length:
                if not self._receive(end):
                    return
            frame.parse_body(memoryview(self._received[9 : 9 + length]))
            self._received = self._received[9 + length :]
            if isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
                self.frames(SettingsFrame(0, flags=["ACK"]))
            yield frame

    def _fields(self, frame: Frame) -> dict[str, str]:
        if not isinstance(frame, HeadersFrame):
            return {}
        return {str(name): str(value) for name, value in self._decoder.decode(frame.data)}

    def _receive(self, end: float) -> bool:
        self._socket.settimeout(max(end - time.monotonic(), 0.001))
        try:
            received = self._socket.recv(65_536)
        except ConnectionResetError:
            return False
        except TimeoutError:
            raise AssertionError("the server says nothing") from None
        self._received += received
        return bool(received)
