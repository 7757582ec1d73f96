"""gRPC, HTTP/2 and TCP used wrong: by mistake, and to do harm."""

import gzip
import time
from collections.abc import Callable
from functools import cache

from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from ..conftest import Server
from ..integration.conftest import ask
from .case import Attempt, Case, each
from .wire import CHAT, COUNT, PREFACE, Headers, Wire, headers, message

_ASK = ask().SerializeToString()
_BODY = message(_ASK)


def _on_wire(
    act: Callable[[Wire], str], *, greet: bool = True, settings: dict[int, int] | None = None
) -> Attempt:
    def attempt(server: Server) -> str:
        with Wire(server, greet=greet, settings=settings) as wire:
            return act(wire)

    return attempt


def _calls(body: bytes = _BODY, fields: Headers | None = None) -> Attempt:
    return _on_wire(lambda wire: wire.call(body, fields))


def _frames(*frames: Frame, settings: dict[int, int] | None = None) -> Attempt:
    """The connection's fate after these frames."""

    def act(wire: Wire) -> str:
        wire.frames(*frames)
        return wire.outcome_of_connection()

    return _on_wire(act, settings=settings)


def _bytes(data: bytes) -> Attempt:
    """The connection's fate after these bytes, sent after HTTP/2's greeting."""

    def act(wire: Wire) -> str:
        wire.raw(data)
        return wire.outcome_of_connection()

    return _on_wire(act)


def _foreign(data: bytes) -> Attempt:
    """What comes of a connection that begins with something that is not HTTP/2."""

    def act(wire: Wire) -> str:
        wire.raw(data)
        return wire.closed()

    return _on_wire(act, greet=False)


def _silent_after(data: bytes, *, greet: bool) -> Attempt:
    def act(wire: Wire) -> str:
        wire.raw(data)
        return wire.silence()

    return _on_wire(act, greet=greet)


def _idle_connections(server: Server) -> str:
    wires = [Wire(server, greet=False) for _ in range(200)]
    try:
        return wires[-1].silence()
    finally:
        for wire in wires:
            wire.close()


def _last_data(stream_id: int, data: bytes = _BODY) -> DataFrame:
    frame = DataFrame(stream_id, data)
    frame.flags.add("END_STREAM")
    return frame


def _resets(body: bool) -> Attempt:
    """Two thousand calls, each taken back as soon as it has been made."""

    def act(wire: Wire) -> str:
        for stream_id in range(1, 4_001, 2):
            made: list[Frame] = [wire.begin(stream_id), *([_last_data(stream_id)] if body else [])]
            wire.frames(*made, RstStreamFrame(stream_id, error_code=8))
        return wire.outcome_of_connection()

    return _on_wire(act)


def _pings(wire: Wire) -> str:
    for _ in range(20):
        wire.frames(PingFrame(0, opaque_data=b"12345678"))
        time.sleep(0.01)
    return wire.outcome_of_connection()


def _long_headers(blocks: int) -> Attempt:
    """So many KB of headers, in as many frames as that takes."""

    def act(wire: Wire) -> str:
        fields = [*headers(), *((f"x-{place}", "a" * 1_000) for place in range(blocks))]
        encoded = Encoder().encode(fields, huffman=False)
        frames: list[Frame] = [HeadersFrame(1, encoded[:16_000])]
        frames += [
            ContinuationFrame(1, encoded[at : at + 16_000]) for at in range(16_000, len(encoded), 16_000)
        ]
        frames[-1].flags.add("END_HEADERS")
        wire.frames(*frames, _last_data(1))
        return wire.outcome()

    return _on_wire(act)


def _endless_continuation(frame: bytes, count: int) -> Attempt:
    def act(wire: Wire) -> str:
        wire.frames(HeadersFrame(1, Encoder().encode(headers())))
        wire.raw(ContinuationFrame(1, frame).serialize() * count)
        return wire.closed()

    return _on_wire(act)


def _empty_data(wire: Wire) -> str:
    wire.frames(wire.begin(1))
    wire.raw(DataFrame(1, b"").serialize() * 20_000)
    return wire.outcome_of_connection()


def _reads_nothing(wire: Wire) -> str:
    wire.frames(wire.begin(1), _last_data(1))
    return wire.silence()


def _half_a_request(wire: Wire) -> str:
    wire.frames(wire.begin(1), DataFrame(1, _BODY[:9]))
    return wire.silence()


def _even_stream(wire: Wire) -> str:
    wire.frames(wire.begin(2))
    return wire.silence()


def _no_window(wire: Wire) -> str:
    wire.frames(wire.begin(1), WindowUpdateFrame(1, window_increment=1))
    wire.raw(b"\0\0\4\x08\0\0\0\0\1" + bytes(4))
    return wire.outcome_of_connection()


@cache
def _bomb() -> bytes:
    """60 KB, which a new stream's window holds, that become 60 MB."""
    return gzip.compress(bytes(60_000_000))


def _inflates(wire: Wire) -> str:
    return wire.call(message(_bomb(), compressed=True), headers(grpc_encoding="gzip"))


def _rows(*rows: tuple[str, str, Attempt]) -> list[Case]:
    return [Case(what, outcome, attempt) for what, outcome, attempt in rows]


_LIES = headers(grpc_timeout="200m")

GRPC = _rows(
    ("a method that the service lacks", "UNIMPLEMENTED", _calls(fields=headers(CHAT.lower()))),
    ("a service that is not there", "UNIMPLEMENTED", _calls(fields=headers("/nobody.Service/Chat"))),
    ("a path that is none", "UNIMPLEMENTED", _calls(fields=headers("nope"))),
    ("GET or PUT instead of POST", "RST_STREAM INTERNAL_ERROR",
     each([_calls(fields=headers(method="GET")), _calls(fields=headers(method="PUT"))])),
    ("no `te: trailers`", "RST_STREAM INTERNAL_ERROR", _calls(fields=headers(te=None))),
    ("no `:path`, no `:scheme`, or no `:authority`", "RST_STREAM INTERNAL_ERROR",
     each([
         _calls(fields=headers(path=None)),
         _calls(fields=headers(scheme=None)),
         _calls(fields=headers(authority=None)),
     ])),
    ("another content type, or none", "OK",
     each([_calls(fields=headers(content_type="text/plain")), _calls(fields=headers(content_type=None))])),
    ("a header name in capitals", "INTERNAL", _calls(fields=[*headers(), ("X-Upper", "1")])),
    ("a `-bin` header that is not Base64", "INTERNAL", _calls(fields=headers(x_bin="!!!"))),
    ("a deadline that has passed", "DEADLINE_EXCEEDED", _calls(fields=headers(grpc_timeout="0n"))),
    ("a deadline that is no time, or negative", "INTERNAL",
     each([_calls(fields=headers(grpc_timeout="soon")), _calls(fields=headers(grpc_timeout="-5S"))])),
    ("a deadline in 11,000 years", "OK", _calls(fields=headers(grpc_timeout="99999999H"))),
    ("no request message at all", "DEADLINE_EXCEEDED", _calls(b"", _LIES)),
    ("a request shorter than its prefix says", "DEADLINE_EXCEEDED", _calls(message(_ASK, length=500), _LIES)),
    ("half a prefix", "DEADLINE_EXCEEDED", _calls(bytes(3), _LIES)),
    ("a prefix that says 4 GiB", "RESOURCE_EXHAUSTED", _calls(message(_ASK, length=2**32 - 1))),
    ("two requests where one is expected", "OK", _calls(_BODY * 2)),
    ("a compression that is not known", "INTERNAL", _calls(fields=headers(grpc_encoding="zstd"))),
    ("a compressed message without a named compression", "INTERNAL", _calls(message(_ASK, compressed=True))),
    ("a message that is not compressed as it says", "INTERNAL",
     _calls(message(_ASK, compressed=True), headers(grpc_encoding="gzip"))),
    ("60 KB of gzip that become 60 MB", "RESOURCE_EXHAUSTED", _on_wire(_inflates)),
    ("`CountTokens` of bytes that are no message", "INVALID_ARGUMENT",
     _calls(message(b"\xff"), headers(COUNT))),
    ("half a request, then silence", "the connection stays open", _on_wire(_half_a_request)),
    ("a caller that never reads its answer", "the connection stays open",
     _on_wire(_reads_nothing, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 0})),
)  # fmt: skip

CONNECTIONS = _rows(
    ("HTTP/1.1 on the port", "the connection is closed", _foreign(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")),
    ("an upgrade from HTTP/1.1", "the connection is closed",
     _foreign(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n")),
    ("TLS on a port without TLS", "the connection is closed",
     _foreign(bytes.fromhex("1603010200010001fc0303") + b"\x01" * 500)),
    ("garbage", "the connection is closed", _foreign(b"\xff\x00" * 200)),
    ("a call before any SETTINGS", "the connection is closed",
     _foreign(PREFACE + DataFrame(1, b"x").serialize())),
    ("a connection and not a word", "the connection stays open", _silent_after(b"", greet=False)),
    ("half of HTTP/2's greeting, then silence", "the connection stays open",
     _silent_after(PREFACE[:10], greet=False)),
    ("half a frame, then silence", "the connection stays open", _silent_after(bytes(5), greet=True)),
    ("200 connections without a word", "the connection stays open", _idle_connections),
)  # fmt: skip

FRAMES = _rows(
    ("a frame of 16 MiB", "the connection is closed", _bytes(b"\xff\xff\xff" + bytes(6) + b"x" * 100)),
    ("DATA on the connection itself", "the connection stays open", _bytes(b"\0\0\1" + bytes(6) + b"x")),
    ("DATA on a stream that nobody opened", "the connection stays open", _frames(DataFrame(9, b"x"))),
    ("a stream with an even number", "the connection stays open", _on_wire(_even_stream)),
    ("PUSH_PROMISE from a caller", "the connection stays open",
     _frames(PushPromiseFrame(1, promised_stream_id=2, data=b"", flags=["END_HEADERS"]))),
    ("RST_STREAM of a stream that nobody opened", "the connection stays open",
     _frames(RstStreamFrame(7, error_code=1))),
    ("GOAWAY from a caller", "the connection stays open", _frames(GoAwayFrame(0, error_code=0))),
    ("WINDOW_UPDATE of zero", "the connection is closed", _bytes(b"\0\0\4\x08\0\0\0\0\0" + bytes(4))),
    ("WINDOW_UPDATE of zero on a stream", "the connection is closed", _on_wire(_no_window)),
    ("a window of more than 2³¹ bytes", "the connection stays open",
     _frames(*[WindowUpdateFrame(0, window_increment=2**31 - 1)] * 2)),
    ("SETTINGS with a window of 4 GiB", "the connection is closed",
     _frames(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 2**32 - 1})),
    ("SETTINGS with frames of one byte", "the connection is closed",
     _frames(settings={SettingsFrame.MAX_FRAME_SIZE: 1})),
    ("SETTINGS with 2,000 unknown entries", "the connection is closed",
     _frames(SettingsFrame(0, settings={number: number for number in range(100, 2_100)}))),
    ("SETTINGS of five bytes", "the connection is closed", _bytes(b"\0\0\5\4\0\0\0\0\0aaaaa")),
    ("PING of one byte", "the connection is closed", _bytes(b"\0\0\1\6\0\0\0\0\0x")),
    ("headers that refer to none (HPACK)", "the connection is closed", _bytes(b"\0\0\2\1\5\0\0\0\1\xff\xff")),
)  # fmt: skip

FLOODS = _rows(
    ("headers of 20 KB, of 1 MB", "OK", each([_long_headers(20), _long_headers(1_000)])),
    ("2,000 calls, each taken back at once (rapid reset)", "the connection stays open",
     each([_resets(body=False), _resets(body=True)])),
    ("20 pings within a second", "the connection is closed", _on_wire(_pings)),
    ("10,000 SETTINGS", "the connection stays open", _bytes(SettingsFrame(0).serialize() * 10_000)),
    ("20,000 empty DATA frames", "the connection is closed", _on_wire(_empty_data)),
    ("20,000 PRIORITY frames", "the connection stays open",
     _bytes(PriorityFrame(1, depends_on=0, stream_weight=5).serialize() * 20_000)),
    ("20,000 frames of a type that is not known", "the connection stays open",
     _bytes(b"\0\0\4\xee\0\0\0\0\0abcd" * 20_000)),
    ("20,000 empty CONTINUATION frames", "the connection is closed", _endless_continuation(b"", 20_000)),
)  # fmt: skip
