"""What the first front end and a sibling tell each other, one line of JSON each on its standard streams."""

from typing import Any

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


class Awaiting(msgspec.Struct, frozen=True, tag=True):
    """The executor process with this folder can be told to attach the sibling."""

    folder: str


class Serving(msgspec.Struct, frozen=True, tag=True):
    """Calls are answered, over the latest executor."""


Answer = Awaiting | Serving

encoder = msgspec.json.Encoder()
order_decoder: msgspec.json.Decoder[Order] = msgspec.json.Decoder(Order)
answer_decoder: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)
