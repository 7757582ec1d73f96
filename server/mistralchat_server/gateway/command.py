"""The command line of `mistralchat gateway`."""

import argparse
import asyncio
import importlib.util
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from . import smg
from .workers import WorkerError, first_ready, host_and_port, save_tokenizer

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main(argv: list[str]) -> int:
    """Runs the command: SMG's exit code; 1 if it cannot be started, 2 for wrong usage."""
    # What follows `--` is SMG's own, whatever it looks like.
    end = argv.index("--") if "--" in argv else len(argv)
    options = _parser().parse_args(argv[:end])
    if importlib.util.find_spec("smg") is None:
        _say('the package smg is not installed: pip install "mistralchat[gateway]"')
        return 1
    try:
        return asyncio.run(_run(options.worker, options.listen, argv[end + 1 :]))
    except WorkerError as error:
        _say(str(error))
        return 1


async def _run(workers: Sequence[str], listen: str, more: Sequence[str]) -> int:
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[int] = loop.create_future()

    def stop(number: int) -> None:
        if not stopped.done():
            stopped.set_result(number)

    for number in _SIGNALS:
        loop.add_signal_handler(number, stop, number)
    waiting = asyncio.ensure_future(first_ready(workers, _say))
    await asyncio.wait((waiting, stopped), return_when=asyncio.FIRST_COMPLETED)
    if not waiting.done():
        waiting.cancel()
        return 128 + stopped.result()
    with tempfile.TemporaryDirectory(prefix="mistralchat-gateway-") as folder:
        await save_tokenizer(waiting.result(), Path(folder))
        gateway = await smg.Gateway.start(smg.command(listen, workers, Path(folder), more))
        for number in _SIGNALS:
            loop.add_signal_handler(number, gateway.signal, number)
        if stopped.done():
            gateway.signal(stopped.result())
        announcing = asyncio.create_task(_announce(listen))
        try:
            return await gateway.wait()
        finally:
            announcing.cancel()


async def _announce(listen: str) -> None:
    await smg.ready(listen)
    _say(f"ready: OpenAI's API is at http://{listen}/v1")


def _say(message: str) -> None:
    print(f"mistralchat gateway: {message}", file=sys.stderr, flush=True)  # noqa: T201


def _address(text: str) -> str:
    try:
        host_and_port(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mistralchat gateway",
        usage="%(prog)s --worker HOST:PORT [--worker HOST:PORT ...] [--listen HOST:PORT] [-- SMG FLAGS]",
        description="Offers OpenAI's ChatCompletions in front of one or more mistralchat servers, through "
        "SMG, the Shepherd Model Gateway. Begins to listen when the first worker is ready.",
        epilog="What follows -- goes to SMG as it is, API keys, TLS and routing policies among it: "
        "see `smg launch --help`.",
    )
    parser.add_argument(
        "--worker",
        type=_address,
        action="append",
        required=True,
        metavar="HOST:PORT",
        help="a mistralchat server; can be given several times",
    )
    parser.add_argument(
        "--listen", type=_address, default="127.0.0.1:8080", metavar="HOST:PORT", help="default: %(default)s"
    )
    return parser
