"""A conversation on the terminal: asks for questions, keeps what was said."""

import contextlib
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from mistralchat.answer import FinishReason
from mistralchat.cli import _display
from mistralchat.client import ChatClient
from mistralchat.errors import ChatError
from mistralchat.messages import Message, assistant, user
from mistralchat.parameters import ChatParameters
from mistralchat.v1 import chat_pb2

with contextlib.suppress(ImportError):
    # Its import alone gives `input` line editing. Windows has none.
    import readline  # noqa: F401

# The first and last characters tell readline that what is between them takes no room.
_PROMPT = "\001\033[1m\002>\001\033[0m\002 "
_HELP = """\
/new    forget what was said
/exit   leave, as Ctrl-D and Ctrl-C do
/help   this list
Ctrl-C during an answer ends the answer."""


class Conversation:
    """Questions and answers, and the history that each further question is asked with."""

    def __init__(
        self,
        client: ChatClient,
        instructions: Sequence[Message],
        parameters: ChatParameters,
        console: Console,
    ) -> None:
        self._client = client
        self._instructions = list(instructions)
        self._parameters = parameters
        self._console = console
        self._history: list[Message] = []

    def run(self) -> int:
        """Converses until the person leaves. Raises `ChatError` if there is no server at the beginning."""
        self._greet(self._client.model())
        while True:
            try:
                line = input(_PROMPT).encode("utf-8", "replace").decode().strip()
            except (EOFError, KeyboardInterrupt):
                print()
                return 0
            match line:
                case "":
                    pass
                case "/exit":
                    return 0
                case "/new":
                    self._history.clear()
                    _display.note(self._console, "a new conversation")
                case "/help":
                    _display.note(self._console, _HELP)
                case command if command.startswith("/"):
                    _display.note(self._console, f"no such command: {command}\n{_HELP}")
                case question:
                    self._ask(question)
                    self._console.print()

    def _greet(self, model: chat_pb2.GetModelResponse) -> None:
        about = [
            f" {model.precision}, {model.executor}",
            f"context {model.context_length:,} tokens",
            self._client.target,
        ]
        self._console.print(Text.assemble((model.name, "bold"), " · ".join(about)))
        _display.note(self._console, "/help lists the commands, Ctrl-D leaves")
        self._console.print()

    def _ask(self, question: str) -> None:
        asked = [*self._history, user(question)]
        best_beam_only = (self._parameters.get("beam_width") or 1) > 1
        stream = self._client.chat([*self._instructions, *asked], **self._parameters)
        try:
            with stream:
                pace = _display.print_answer(stream, self._console, best_beam_only=best_beam_only)
            remark = _display.summary(stream, pace)
        except KeyboardInterrupt:
            remark = "interrupted"
        except ChatError as error:
            _display.error(self._console, error, self._client.target)
            return
        _display.note(self._console, remark)
        # An empty turn would be refused with every later question, and a cut prompt is no answer.
        if stream.text and stream.finish_reason is not FinishReason.PROMPT_TRUNCATED:
            self._history = [*asked, assistant(stream.text)]
