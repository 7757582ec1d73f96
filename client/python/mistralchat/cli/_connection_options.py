"""The options that say which server is called and how: the same for every subcommand that calls one."""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc

from mistralchat._connection import (
    CallMetadata,
    Token,
    channel_credentials,
    channel_options,
    target_or_default,
)
from mistralchat.client import ChatClient
from mistralchat.tls import TLS

_TOKEN = "MISTRALCHAT_TOKEN"


def add(parser: argparse.ArgumentParser) -> None:
    """Adds them to a command's options."""
    parser.add_argument(
        "--target", metavar="HOST:PORT", help="the server (default: $MISTRALCHAT_TARGET or localhost:50051)"
    )
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="give an answer up after this long")
    add_access(parser)


def add_access(parser: argparse.ArgumentParser) -> None:
    """Adds those about encryption and credentials alone."""
    group = parser.add_argument_group("a server with TLS and credentials")
    group.add_argument(
        "--tls", action="store_true", help="encrypt; the arguments about certificates imply it"
    )
    group.add_argument(
        "--ca", metavar="FILE", help="the authorities to trust (default: those that the public trusts)"
    )
    group.add_argument("--certificate", metavar="FILE", help="the certificate to show to the server")
    group.add_argument("--key", metavar="FILE", help="its private key")
    group.add_argument(
        "--server-name", metavar="NAME", help="the name in the server's certificate, if not the target's host"
    )
    group.add_argument(
        "--token-file",
        metavar="FILE",
        help=f"holds the token that identifies the caller, read for each call (default: ${_TOKEN})",
    )


def tls(options: argparse.Namespace) -> bool | TLS:
    """The encryption that the options ask for. Raises ValueError for ones that do not go together."""
    files = TLS(options.ca, options.certificate, options.key, options.server_name)
    return files if files != TLS() else bool(options.tls)


@dataclass(frozen=True, slots=True)
class ServerConnection:
    """How to connect. Plain values, so that it can be handed to another process."""

    target: str
    timeout: float | None = None
    """Of each call, in seconds; None waits for as long as it takes."""
    tls: bool | TLS = False
    token_file: Path | None = None

    @classmethod
    def of(cls, options: argparse.Namespace) -> Self:
        """As the options say. Raises ValueError for ones that do not go together, OSError for no file."""
        token_file = None if options.token_file is None else Path(options.token_file)
        if token_file is not None:
            # A file that is not there is told before the first call, not as its failure.
            token_file.read_bytes()
        return cls(target_or_default(options.target), options.timeout, tls(options), token_file)

    def client(self) -> ChatClient:
        """A client of that server."""
        return ChatClient(self.target, timeout=self.timeout, tls=self.tls, token=self._token)

    def metadata(self) -> CallMetadata:
        """What goes with every call."""
        return CallMetadata(None, self._token)

    def aio_channel(self, *options: tuple[str, str | int]) -> grpc.aio.Channel:
        """A channel of asyncio to that server, with options beside the client's own. Inside an event loop."""
        credentials = channel_credentials(None, self.tls)
        all_options = [*channel_options(self.tls), *options]
        if credentials is None:
            return grpc.aio.insecure_channel(self.target, all_options)
        return grpc.aio.secure_channel(self.target, credentials, all_options)

    @property
    def _token(self) -> Token | None:
        if (path := self.token_file) is not None:
            return lambda: path.read_text(encoding="utf-8").strip()
        return os.environ.get(_TOKEN) or None
