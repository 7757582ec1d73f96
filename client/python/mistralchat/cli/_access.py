"""The arguments that say how to reach a server: encryption and credentials, alike for every command."""

import argparse
import os
from pathlib import Path
from typing import TypedDict

from mistralchat._connection import Token
from mistralchat.tls import TLS

_TOKEN = "MISTRALCHAT_TOKEN"


class Access(TypedDict):
    """Keywords of `ChatClient` and `AsyncChatClient`."""

    tls: bool | TLS
    token: Token | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds a group of arguments."""
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


def access(options: argparse.Namespace) -> Access:
    """What the arguments mean. Raises ValueError for ones that do not go together, OSError for no file."""
    tls = TLS(options.ca, options.certificate, options.key, options.server_name)
    token: Token | None = os.environ.get(_TOKEN) or None
    if options.token_file is not None:
        path = Path(options.token_file)

        def token() -> str:
            return path.read_text(encoding="utf-8").strip()

        # A file that is not there is told before the first call, not as its failure.
        token()
    return Access(tls=tls if tls != TLS() else options.tls, token=token)
