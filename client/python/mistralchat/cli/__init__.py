"""The `mistralchat` command: hands its arguments to the subcommand that they name."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NamedTuple


class _Command(NamedTuple):
    # Has a `main(argv: list[str]) -> int`. Imported only when it is called for, since each brings packages
    # of its own: those of the extra.
    module: str
    extra: str
    summary: str


_COMMANDS = {
    "chat": _Command("mistralchat.cli._chat", "cli", "ask a question, or hold a conversation"),
    "bench": _Command("mistralchat.bench.command", "bench", "put a server under load and measure it"),
    "engines": _Command(
        "mistralchat_server.engines.command", "server", "list, check, prepare engine recipes"
    ),
    "serve": _Command("mistralchat_server.app", "openvino", "run the server"),
    "keys": _Command("mistralchat_server.security.command", "server", "make keys for callers"),
    "gateway": _Command(
        "mistralchat_server.gateway.command", "gateway", "offer OpenAI's API in front of servers"
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    # Everything behind the command's name is the command's own, `--help` and `--` included.
    end = next((index for index, argument in enumerate(argv) if not argument.startswith("-")), len(argv)) + 1
    name = _parser().parse_args(argv[:end]).command
    command = _COMMANDS[name]
    try:
        module = importlib.import_module(command.module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing.partition(".")[0] in ("mistralchat", "mistralchat_server"):
            raise
        remedy = f'pip install "mistralchat[{command.extra}]"'
        print(f"mistralchat {name} needs {missing}, which is not installed: {remedy}", file=sys.stderr)
        return 1
    status: int = module.main(argv[end:])
    return status


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, _COMMANDS))
    parser = argparse.ArgumentParser(
        prog="mistralchat",
        usage="%(prog)s [--version] [--help] COMMAND ...",
        description="Mistral chat over gRPC.",
        epilog="commands:\n"
        + "\n".join(f"  {name:{width}}  {command.summary}" for name, command in _COMMANDS.items())
        + "\n\n`mistralchat COMMAND --help` tells more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('mistralchat')}")
    parser.add_argument("command", metavar="COMMAND", choices=_COMMANDS, help=argparse.SUPPRESS)
    return parser
