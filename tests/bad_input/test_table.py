"""Every row of docs/bad-input.md: it comes as the table says, and nobody else notices."""

import pytest

from ..conftest import Server
from ..integration.conftest import answer, text
from .case import Case
from .table import DOCUMENT, TABLE, document

_CASES = {f"{section}: {case.what}": case for section, cases in TABLE.items() for case in cases}


@pytest.mark.parametrize("case", _CASES.values(), ids=_CASES)
def test_it_comes_as_the_table_says(case: Case, request: pytest.FixtureRequest) -> None:
    server: Server = request.getfixturevalue(case.server)
    # A call takes an id when, and only when, it goes to the executor.
    before = server.executor.new_id() if not case.reaches_executor else None
    assert case.attempt(server) == case.outcome
    if before is not None:
        assert server.executor.new_id() == before + 1
    if case.server != "loading_server":
        server.await_idle()
        _answers(server)


def _answers(server: Server) -> None:
    messages = answer(server, "Hello", max_completion_tokens=5)
    assert messages[-1].usage.completion_tokens > 0
    if server.executor.description is not None and server.executor.description.executor == "replay":
        assert text(messages) == "Hello"


def test_a_call_that_is_answered_takes_an_id(replay_server: Server) -> None:
    before = replay_server.executor.new_id()
    _answers(replay_server)
    assert replay_server.executor.new_id() == before + 2


def test_the_document_is_the_table() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "python -m tests.bad_input.table --write"


def test_the_table_is_long_enough_and_has_nothing_twice() -> None:
    assert len(_CASES) == sum(map(len, TABLE.values())) >= 60
