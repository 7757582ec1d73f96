"""The options that say which server is called and how: the same for every subcommand that calls one."""

import argparse
from dataclasses import dataclass
from typing import Self

import grpc

from mistralchat._connection import CHANNEL_OPTIONS, target_or_default
from mistralchat.client import ChatClient


def add(parser: argparse.ArgumentParser) -> None:
    """Adds them to a command's options."""
    parser.add_argument(
        "--target", metavar="HOST:PORT", help="the server (default: $MISTRALCHAT_TARGET or localhost:50051)"
    )
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="give an answer up after this long")


@dataclass(frozen=True, slots=True)
class ServerConnection:
    """How to connect. Plain values, so that it can be handed to another process."""

    target: str
    timeout: float | None = None
    """Of each call, in seconds; None waits for as long as it takes."""

    @classmethod
    def of(cls, options: argparse.Namespace) -> Self:
        """As the options say."""
        return cls(target_or_default(options.target), options.timeout)

    def client(self) -> ChatClient:
        """A client of that server."""
        return ChatClient(self.target, timeout=self.timeout)

    def aio_channel(self, *channel_options: tuple[str, str | int]) -> grpc.aio.Channel:
        """A channel of asyncio to that server, with options beside the client's own. Inside an event loop."""
        return grpc.aio.insecure_channel(self.target, [*CHANNEL_OPTIONS, *channel_options])
