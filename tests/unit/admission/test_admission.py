"""The gate: slots, turns, refusals, by a clock of its own."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from mistralchat_server.admission.admission import Admission, Bounds, Place
from mistralchat_server.admission.errors import AdmissionError, ClosedError, ExpiredError, RefusedError


class _Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class _Gate:
    """An open gate, and calls that end when they are told to."""

    def __init__(self, slots: int, **bounds: float) -> None:
        self.clock = _Clock()
        defaults = {"open_calls": 1_000, "queue_seconds": 1_000.0, "queue_tokens": 1_000_000}
        self.admission = Admission(Bounds(**{**defaults, **bounds}), self.clock)  # type: ignore[arg-type]
        self.admission.open(slots)
        if "queue_seconds" not in bounds:
            # Calls take no time, so none waits too long.
            self.admission._pace.held.add(0)
        #: Names of calls in the order in which they got their slots.
        self.started: list[str] = []
        self.ended: dict[str, AdmissionError | None] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ends: dict[str, asyncio.Event] = {}
        self.places: dict[str, Place] = {}

    async def call(self, name: str, prompt: int = 1, deadline: float | None = None) -> None:
        """Begins a call; its caller is the first letter of its name."""
        self._ends[name] = asyncio.Event()
        self._tasks[name] = asyncio.create_task(self._call(name, prompt, deadline))
        await _settled()

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await _settled()

    async def cancel(self, *names: str) -> None:
        for name in names:
            self._tasks[name].cancel()
        await _settled()

    async def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        assert (self.admission.open_calls, self.admission.running, self.admission.waiting) == (0, 0, 0)
        assert not self.admission._callers
        assert self.admission._queue_tokens == 0
        await asyncio.wait_for(self.admission.idle(), 1)

    async def _call(self, name: str, prompt: int, deadline: float | None) -> None:
        self.ended.pop(name, None)
        try:
            with self.admission.call(name[0], deadline) as place:
                self.places[name] = place
                await place.slot(prompt)
                self.started.append(name)
                await self._ends[name].wait()
        except AdmissionError as error:
            self.ended[name] = error
        else:
            self.ended[name] = None


async def _settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


Open = Callable[..., _Gate]


@pytest.fixture
async def gate() -> AsyncIterator[Open]:
    """Opens gates; at the end nothing may be left of their calls."""

    @asynccontextmanager
    async def opened(made: _Gate) -> AsyncIterator[_Gate]:
        yield made
        await made.close()

    async with AsyncExitStack() as stack:
        gates: list[_Gate] = []

        def open_gate(slots: int, **bounds: float) -> _Gate:
            gates.append(_Gate(slots, **bounds))
            return gates[-1]

        yield open_gate
        for made in gates:
            await stack.enter_async_context(opened(made))


def _refusal(gate: _Gate, name: str) -> RefusedError:
    error = gate.ended[name]
    assert isinstance(error, RefusedError)
    assert error.retry_after > 0
    return error


async def test_calls_wait_for_slots_in_order(gate: Open) -> None:
    g = gate(2)
    for name in ("a1", "a2", "a3", "a4"):
        await g.call(name)
    assert g.started == ["a1", "a2"]
    assert (g.admission.running, g.admission.waiting) == (2, 2)
    await g.end("a2")
    await g.end("a1")
    assert g.started == ["a1", "a2", "a3", "a4"]


async def test_the_one_call_of_another_caller_starts_next(gate: Open) -> None:
    g = gate(4)
    for number in range(200):
        await g.call(f"a{number}")
    await g.call("b0")
    await g.end("a0")
    assert g.started[-1] == "b0"
    await g.end("a1")
    assert g.started[-1] == "a4"


async def test_callers_take_turns_where_there_is_one_slot(gate: Open) -> None:
    g = gate(1)
    for name in ("a1", "a2", "a3", "a4", "b1", "b2", "c1"):
        await g.call(name)
    for number in range(6):
        await g.end(g.started[number])
    assert g.started == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]


async def test_whoever_has_fewer_slots_catches_up(gate: Open) -> None:
    g = gate(4)
    for number in range(8):
        await g.call(f"a{number}")
    for number in range(3):
        await g.call(f"b{number}")
    for number in range(3):
        await g.end(f"a{number}")
    # Two each, before a has another.
    assert g.started[4:] == ["b0", "b1", "a4"]


async def test_a_slot_can_be_given_back_before_the_call_ends(gate: Open) -> None:
    g = gate(1)
    await g.call("a1")
    await g.call("a2")
    for _ in range(2):
        g.places["a1"].free()
        await _settled()
        assert g.started == ["a1", "a2"]
        assert (g.admission.open_calls, g.admission.running) == (2, 1)


async def test_one_that_leaves_the_queue_is_never_started(gate: Open) -> None:
    g = gate(1)
    for name in ("a1", "a2", "a3"):
        await g.call(name)
    await g.cancel("a2")
    assert g.admission.waiting == 1
    await g.end("a1")
    assert g.started == ["a1", "a3"]


async def test_a_slot_that_comes_as_its_call_is_cancelled_goes_to_the_next(gate: Open) -> None:
    g = gate(1)
    for name in ("a1", "a2", "a3"):
        await g.call(name)
    g._tasks["a2"].cancel()
    g.places["a1"].free()
    await _settled()
    assert g.started == ["a1", "a3"]
    # The other way about: granted, and cancelled before it could run.
    await g.call("a4")
    g.places["a3"].free()
    g._tasks["a4"].cancel()
    await _settled()
    assert g.started == ["a1", "a3"]
    assert g.admission.running == 0


async def test_a_call_whose_deadline_has_passed_is_never_started(gate: Open) -> None:
    g = gate(1)
    await g.call("a1")
    await g.call("a2", deadline=g.clock.now + 5)
    await g.call("a3", deadline=g.clock.now + 50)
    g.clock.now += 10
    await g.end("a1")
    assert g.started == ["a1", "a3"]
    assert isinstance(g.ended["a2"], ExpiredError)


async def test_beyond_the_most_open_calls(gate: Open) -> None:
    g = gate(1, open_calls=3)
    for name in ("a1", "a2", "a3", "a4"):
        await g.call(name)
    refused = _refusal(g, "a4")
    assert (refused.subject, str(refused)) == ("open calls", "the server already has 3 open calls")


async def test_a_full_queue_has_room_for_a_caller_with_less(gate: Open) -> None:
    g = gate(2, open_calls=5)
    for name in ("a1", "a2", "a3", "a4", "a5", "b1"):
        await g.call(name)
    _refusal(g, "a5")
    assert g.admission.open_calls == 5
    await g.call("b2")
    _refusal(g, "a4")
    # Three and two are as fair as it gets.
    await g.call("b3")
    _refusal(g, "b3")
    await g.end("a1")
    assert g.started == ["a1", "a2", "b1"]


async def test_running_calls_are_never_turned_away(gate: Open) -> None:
    g = gate(2, open_calls=2)
    for name in ("a1", "a2", "b1"):
        await g.call(name)
    _refusal(g, "b1")
    assert g.started == ["a1", "a2"]


async def test_prompts_of_waiting_calls_are_bounded(gate: Open) -> None:
    g = gate(1, queue_tokens=100)
    await g.call("a1", prompt=5_000)
    await g.call("a2", prompt=60)
    await g.call("a3", prompt=60)
    assert _refusal(g, "a3").subject == "prompt tokens"
    await g.call("b1", prompt=60)
    assert _refusal(g, "a2").subject == "prompt tokens"
    await g.call("a4", prompt=40)
    assert g.admission.waiting == 2


async def test_before_anything_is_known_twice_as_many_may_wait_as_can_run(gate: Open) -> None:
    g = gate(4, queue_seconds=2)
    for number in range(14):
        await g.call(f"a{number}")
    assert list(g.ended) == ["a13"]
    # Twice four, and the one that may always wait.
    assert g.admission.waiting == 9


async def _with_history(g: _Gate, held: float, first_token: float) -> None:
    """One call has taken so long."""
    await g.call("z")
    g.clock.now += held
    g.places["z"].settle(1, g.clock.now - held + first_token)
    await g.end("z")


async def test_the_expected_wait_is_bounded(gate: Open) -> None:
    g = gate(2, queue_seconds=10)
    # A slot becomes free every four seconds: the call that would wait for the fourth is refused.
    await _with_history(g, held=8, first_token=8)
    for number in range(6):
        await g.call(f"a{number}")
    refused = _refusal(g, "a5")
    assert refused.subject == "slots"
    assert 10 < refused.retry_after < 22
    assert g.admission.waiting == 3


async def test_one_call_may_always_wait(gate: Open) -> None:
    g = gate(1, queue_seconds=0.001)
    await _with_history(g, held=100, first_token=1)
    await g.call("a1")
    await g.call("a2")
    assert g.admission.waiting == 1


async def test_under_a_load_that_lasts_calls_wait_for_a_fraction_of_the_time_to_a_first_token(
    gate: Open,
) -> None:
    g = gate(2, queue_seconds=10)
    await _with_history(g, held=2, first_token=6)
    for number in range(13):
        await g.call(f"a{number}")
    assert g.admission.waiting == 11
    await g.call("b-is-refused-for-a")
    for number in range(13, 20):
        await g.call(f"a{number}")
    assert g.admission.waiting == 11
    # From here on three seconds are bearable, and the queue is not filled up again.
    for number in range(4):
        g.clock.now += number % 2 * 2
        await g.end(g.started[number + 1])
    await g.call("a20")
    assert isinstance(g.ended["a20"], RefusedError)
    # Until nobody has been refused for as long as a burst may wait.
    g.clock.now += 11
    await g.call("a21")
    assert "a21" not in g.ended


async def test_a_call_that_has_waited_too_long_makes_way_for_its_callers_next(gate: Open) -> None:
    g = gate(1, queue_seconds=10)
    await _with_history(g, held=6, first_token=4)
    for name in ("a1", "a2", "a3", "a4"):
        await g.call(name)
    # The load lasts: two seconds are bearable, which is room for one.
    _refusal(g, "a4")
    await g.end("a1")
    g.clock.now += 1
    await g.call("a5")
    _refusal(g, "a5")
    g.clock.now += 2
    await g.call("a6")
    _refusal(g, "a3")
    await g.end("a2")
    assert g.started == ["z", "a1", "a2", "a6"]


async def test_open_calls_of_one_caller_are_bounded(gate: Open) -> None:
    g = gate(1, calls_per_caller=2)
    for name in ("a1", "a2", "a3", "b1"):
        await g.call(name)
    assert _refusal(g, "a3").subject == "open calls of one caller"
    assert "b1" not in g.ended
    await g.end("a1")
    await g.call("a4")
    assert "a4" not in g.ended


async def test_tokens_of_one_caller_are_bounded(gate: Open) -> None:
    g = gate(10, tokens_per_minute=600)
    await g.call("a1", prompt=500)
    await g.call("a2", prompt=50)
    g.places["a1"].settle(250, None)
    await g.call("a3")
    refused = _refusal(g, "a3")
    assert refused.subject == "tokens per minute"
    assert refused.retry_after == pytest.approx(20.1)
    await g.call("b1")
    assert "b1" not in g.ended
    g.clock.now += 20.2
    await g.call("a4")
    assert "a4" not in g.ended


async def test_closing_ends_what_waits_and_lets_run_what_runs(gate: Open) -> None:
    g = gate(1)
    for name in ("a1", "a2", "b1"):
        await g.call(name)
    g.admission.close("for the night")
    await _settled()
    await g.call("a3")
    for name in ("a2", "b1", "a3"):
        assert isinstance(g.ended[name], ClosedError)
        assert str(g.ended[name]) == "for the night"
    assert g.admission.running == 1
    await g.end("a1")
    assert g.ended["a1"] is None
    g.admission.open(1)
    await g.call("a4")
    assert g.started == ["a1", "a4"]


async def test_a_call_that_asks_for_its_slot_after_closing_gets_none() -> None:
    admission = Admission(Bounds(10, 1, 10))
    with pytest.raises(ClosedError), admission.call("a"):
        pytest.fail("it was never opened")
    admission.open(1)
    with admission.call("a") as place:
        admission.close("now")
        with pytest.raises(ClosedError):
            await place.slot(1)
    assert admission.open_calls == 0
