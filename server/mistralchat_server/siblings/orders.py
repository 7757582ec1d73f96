"""What the first front end tells a sibling, one line of JSON each on its standard input."""

from typing import Any, Literal

import msgspec


class Begin(msgspec.Struct, frozen=True, tag=True):
    """The first line: listen. The end of standard input, whenever it comes, means: end at once."""

    #: What the executor process attaches this front end as.
    number: int
    settings: dict[str, Any]


class Connect(msgspec.Struct, frozen=True, tag=True):
    """An executor process is ready, with its sockets in `folder`."""

    folder: str


class Drain(msgspec.Struct, frozen=True, tag=True):
    """Refuse new calls, let running ones finish, end."""


Order = Begin | Connect | Drain

#: What a sibling answers on its standard output, a line each time that calls are answered.
SERVING: Literal[b"serving\n"] = b"serving\n"

encoder = msgspec.json.Encoder()
decoder: msgspec.json.Decoder[Order] = msgspec.json.Decoder(Order)
