"""`mistralchat chat`: one question and its answer, or a conversation."""

import argparse
import os
import sys
from typing import cast

from rich.console import Console

from mistralchat.cli import _connection_options, _display
from mistralchat.cli._conversation import Conversation
from mistralchat.client import ChatClient
from mistralchat.errors import ChatError
from mistralchat.messages import Message, system, user
from mistralchat.parameters import DEFAULT_MAX_COMPLETION_TOKENS, ChatParameters, chat_request

_INTERRUPTED = 130  # 128 + SIGINT, as shells count

# Flag, type, what it stands for in the usage, help. The flag's name is the parameter's.
_PARAMETERS = (
    (
        "--max-completion-tokens",
        int,
        "N",
        f"budget in generated tokens (default {DEFAULT_MAX_COMPLETION_TOKENS})",
    ),
    ("--max-tokens", int, "N", "budget in tokens, the prompt's included"),
    ("--temperature", float, "X", "0 is greedy (default)"),
    ("--top-p", float, "X", "sample among the likeliest tokens that hold this much probability"),
    ("--top-k", int, "N", "sample among this many likeliest tokens"),
    ("--min-p", float, "X", "sample among tokens at least this fraction as likely as the likeliest"),
    ("--seed", int, "N", "the same seed gives the same answer"),
    ("--repetition-penalty", float, "X", "above 1 discourages what was already said"),
    ("--presence-penalty", float, "X", "subtracted for tokens that the answer holds"),
    ("--frequency-penalty", float, "X", "subtracted each time that the answer holds a token"),
    ("--min-tokens", int, "N", "the model cannot end its answer earlier"),
    ("--beam-width", int, "N", "search with N beams and print the best"),
    ("--json-schema", str, "JSON", "the answer is JSON of this schema"),
    ("--regex", str, "REGEX", "the answer matches this"),
    ("--grammar", str, "EBNF", "the answer follows this grammar"),
)


def main(argv: list[str]) -> int:
    """Runs the command: 0 for an answer, 1 for a failed call, 2 for wrong usage."""
    parser = _parser()
    options = parser.parse_args(argv)
    parameters = cast(
        ChatParameters,
        {name: value for name, value in vars(options).items() if name in ChatParameters.__annotations__},
    )
    instructions = [system(_readable(options.system))] if options.system else []
    interactive = options.question is None and sys.stdin.isatty() and sys.stdout.isatty()
    console = _display.console()
    try:
        chat_request(instructions, parameters)
        if interactive:
            question = None
        elif not (question := _readable(_question(options.question)).strip()):
            parser.error("the question is empty")
    except ValueError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        return _INTERRUPTED
    try:
        client = _connection_options.ServerConnection.of(options).client()
    except (OSError, ValueError) as error:
        parser.error(str(error))
    with client:
        try:
            if question is None:
                return Conversation(client, instructions, parameters, console).run()
            return _answer(client, [*instructions, user(question)], parameters, console)
        except ChatError as error:
            _display.error(console, error, client.target)
            return 1
        except KeyboardInterrupt:
            return _INTERRUPTED
        except BrokenPipeError:
            # The reader of a pipe has seen enough. Python would complain once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1


def _answer(client: ChatClient, messages: list[Message], parameters: ChatParameters, console: Console) -> int:
    best_beam_only = (parameters.get("beam_width") or 1) > 1
    with client.chat(messages, **parameters) as stream:
        pace = _display.print_answer(stream, console, best_beam_only=best_beam_only)
    _display.note(console, _display.summary(stream, pace))
    return 0


def _question(argument: str | None) -> str:
    return sys.stdin.buffer.read().decode("utf-8", "replace") if argument is None else argument


def _readable(text: str) -> str:
    """Arguments hold lone surrogates where they were not UTF-8; the wire cannot carry those."""
    return text.encode("utf-8", "replace").decode()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mistralchat chat",
        description="Ask a question, or hold a conversation. The answer goes to standard output, "
        "everything else to standard error.",
    )
    parser.add_argument(
        "question",
        nargs="?",
        help="without it: a conversation on a terminal; elsewhere the question is read from standard input",
    )
    _connection_options.add(parser)
    parser.add_argument("--system", metavar="TEXT", help="instructions that stand above the conversation")
    shaping = parser.add_argument_group("what shapes the answer")
    for flag, kind, metavar, explanation in _PARAMETERS:
        shaping.add_argument(flag, type=kind, metavar=metavar, help=explanation)
    shaping.add_argument(
        "--bad-word",
        dest="bad_words_list",
        action="append",
        metavar="TEXT",
        help="never occurs in the answer; can be given several times",
    )
    shaping.add_argument(
        "--stop-word",
        dest="stop_words_list",
        action="append",
        metavar="TEXT",
        help="ends the answer; can be given several times",
    )
    return parser
