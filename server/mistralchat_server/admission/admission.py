"""The gate that every call passes on its way to the executor."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from .errors import AdmissionError, ClosedError, ExpiredError, RefusedError
from .pace import Pace
from .queue import FairQueue
from .quota import Quota

#: Under a load that lasts, a call may wait for so much of the time that the executor takes to a first token.
_SHARE_OF_FIRST_TOKEN = 0.5


@dataclass(frozen=True)
class Bounds:
    """What is admitted. Several gates in front of one executor divide all counts between them."""

    #: Calls that run or wait.
    open_calls: int
    #: Seconds that a call may be expected to wait.
    queue_seconds: float
    #: Prompt tokens of the calls that wait.
    queue_tokens: int
    #: Open calls of one caller; 0 is no limit.
    calls_per_caller: int = 0
    #: Of one caller, prompts and answers together; 0 is no limit.
    tokens_per_minute: int = 0


@dataclass(slots=True)
class _Caller:
    open: int = 0
    running: int = 0
    #: Of its latest slot, counting all slots that were ever handed out.
    turn: int = 0


class Place:
    """One call at the gate, from its arrival to the end of its `with`."""

    __slots__ = ("_admission", "caller", "deadline", "has_slot", "left", "prompt_tokens", "since", "waiter")

    def __init__(self, admission: "Admission", caller: str, deadline: float | None) -> None:
        self._admission = admission
        self.caller = caller
        self.deadline = deadline
        self.prompt_tokens = 0
        #: Done once the call has a slot or never will.
        self.waiter: asyncio.Future[None] | None = None
        self.has_slot = False
        #: Of the wait; once there has been a slot, of that.
        self.since = 0.0
        self.left = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._admission._leave(self)

    async def slot(self, prompt_tokens: int) -> None:
        """Waits for a slot of the executor. Raises `AdmissionError`."""
        await self._admission._slot(self, prompt_tokens)

    def free(self) -> None:
        """Gives the slot back, if the call has one, while the call itself goes on."""
        self._admission._free(self)

    def settle(self, completion_tokens: int, first_token_at: float | None) -> None:
        """Tells what became of the slot; the moment in seconds of the gate's clock."""
        self._admission._settle(self, completion_tokens, first_token_at)


class Admission:
    """Hands the executor's slots to calls, refuses those that would wait too long, and is fair about both.

    A free slot goes to the waiting caller that has the fewest, and of several to the one whose last turn
    was longest ago. A call that is one too many takes the place of the newest waiting one of the caller with
    the most open calls, or is refused if none has more than its own caller would have.

    A burst may wait for `queue_seconds`. From the first refusal on, until none has been necessary for as
    long, calls wait for a fraction of the time that the executor takes to a first token: a queue that
    never gets shorter only makes everybody wait.
    """

    def __init__(self, bounds: Bounds, clock: Callable[[], float] = time.monotonic) -> None:
        """Closed, until `open` is called."""
        self._bounds = bounds
        self._clock = clock
        self._slots = 0
        self._running = 0
        self._turns = 0
        self._open_calls = 0
        self._callers: dict[str, _Caller] = {}
        self._queue: FairQueue[Place] = FairQueue()
        self._queue_tokens = 0
        # Until something is known, twice as many may wait as can run.
        self._pace = Pace(bounds.queue_seconds / 2)
        self._quota = Quota(bounds.tokens_per_minute)
        self._refused_at: float | None = None
        self._closed = "the model is still being loaded"
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def open_calls(self) -> int:
        """Calls that run or wait."""
        return self._open_calls

    @property
    def running(self) -> int:
        """Calls that have a slot."""
        return self._running

    @property
    def waiting(self) -> int:
        """Calls in the queue."""
        return len(self._queue)

    def open(self, slots: int) -> None:
        """Begins to hand out so many slots."""
        self._slots = slots
        self._closed = ""
        self._grant()

    def close(self, reason: str) -> None:
        """Ends every call that has no slot with `ClosedError`, until `open` is called."""
        self._closed = reason
        while self._queue:
            self._turn_away(self._take(), ClosedError(reason))

    async def idle(self) -> None:
        """Waits until no call is open."""
        await self._idle.wait()

    def call(self, caller: str, deadline: float | None = None) -> Place:
        """Counts a call until it leaves its place; `deadline` by the clock. Raises `AdmissionError`.

        Decides by counts alone, before anything is known of the prompt: refusing must cost little.
        """
        now = self._clock()
        if self._closed:
            raise ClosedError(self._closed)
        self._refuse_over_share(caller, now)
        place = Place(self, caller, deadline)
        self._make_room(place, now)
        self._open_calls += 1
        self._callers.setdefault(caller, _Caller()).open += 1
        self._idle.clear()
        return place

    def _refuse_over_share(self, caller: str, now: float) -> None:
        most, known = self._bounds.calls_per_caller, self._callers.get(caller)
        if most and known is not None and known.open >= most:
            raise RefusedError(
                "open calls of one caller",
                f"the caller already has {most:,} open calls",
                self._pace.next_end(known.running),
            )
        if wait := self._quota.wait(caller, now):
            raise RefusedError(
                "tokens per minute",
                f"the caller has used the {self._bounds.tokens_per_minute:,} tokens that it has in a minute",
                wait,
            )

    def _make_room(self, place: Place, now: float) -> None:
        """Refuses a call that is one too many, or another in its stead."""
        wait, bearable = self._expected_wait(self._open_calls), self._bearable_wait(now)
        if self._open_calls >= self._bounds.open_calls:
            subject, message = "open calls", f"the server already has {self._bounds.open_calls:,} open calls"
        elif wait > bearable:
            subject, message = (
                "slots",
                f"the server is busy: {len(self._queue):,} calls already wait for a slot",
            )
        else:
            return
        self._refused_at = now
        delay = self._pace.turn(now, wait, self._slots)
        victim = self._newest_of_a_heavier(self._open_of(place.caller) + 1)
        # Slots do not become free evenly. In a queue of the right length, a call that has waited too long
        # makes way for its caller's next: as many are answered, and those that are, soon.
        if victim is None and self._expected_wait(self._open_calls - 1) <= bearable:
            oldest = self._queue.oldest(place.caller)
            if oldest is not None and now - oldest.since > bearable:
                victim = oldest
        # An error in a variable of a frame that it passes would be a cycle for the garbage collector.
        if victim is None:
            raise RefusedError(subject, message, delay)
        self._turn_away(victim, RefusedError(subject, message, delay))

    def _expected_wait(self, open_calls: int) -> float:
        """Seconds that a call would wait for a slot beside so many others, by what calls have taken so far.

        0 for the first one that has to wait at all: somebody should be there for the next free slot.
        """
        return max(open_calls - self._slots, 0) * self._pace.between_slots(self._slots)

    def _bearable_wait(self, now: float) -> float:
        most, first_token = self._bounds.queue_seconds, self._pace.first_token.value
        if first_token is None or self._refused_at is None or now - self._refused_at > most:
            return most
        return min(most, first_token * _SHARE_OF_FIRST_TOKEN)

    def _newest_of_a_heavier(self, open_calls: int) -> Place | None:
        """The newest waiting call of the caller with the most open calls, if they are more than that."""
        heaviest = self._queue.heaviest(self._open_of)
        if heaviest is None or self._open_of(heaviest) <= open_calls:
            return None
        return self._queue.newest(heaviest)

    async def _slot(self, place: Place, prompt_tokens: int) -> None:
        now = self._clock()
        if self._closed:
            raise ClosedError(self._closed)
        place.prompt_tokens = prompt_tokens
        place.since = now
        place.waiter = asyncio.get_running_loop().create_future()
        self._queue.put(place.caller, place)
        self._queue_tokens += prompt_tokens
        self._grant()
        if not place.waiter.done():
            self._bound_tokens(place, now)
        try:
            await place.waiter
        except asyncio.CancelledError:
            if not place.waiter.cancelled():
                # It was refused in the same moment, and nobody will ask for the reason.
                place.waiter.exception()
            raise
        except AdmissionError:
            # Both would hold each other.
            place.waiter = None
            raise

    def _bound_tokens(self, place: Place, now: float) -> None:
        """Refuses waiting calls, at last `place` itself, until the prompts of the others are small enough."""
        while self._queue_tokens > self._bounds.queue_tokens:
            delay = self._pace.turn(now, self._expected_wait(self._open_calls), self._slots)
            victim = self._newest_of_a_heavier(self._open_of(place.caller))
            if victim is None:
                raise self._prompts_too_long(delay)
            self._turn_away(victim, self._prompts_too_long(delay))

    def _prompts_too_long(self, delay: float) -> RefusedError:
        return RefusedError(
            "prompt tokens",
            "the server is busy: the prompts of waiting calls have the "
            f"{self._bounds.queue_tokens:,} tokens that they may have",
            delay,
        )

    def _grant(self) -> None:
        """Gives free slots to calls that wait."""
        now = self._clock()
        while self._queue and self._running < self._slots:
            place = self._take()
            assert place.waiter is not None
            if place.waiter.done():
                # Its caller has left in this very moment.
                continue
            if place.deadline is not None and place.deadline <= now:
                self._turn_away(place, ExpiredError("the deadline passed before the call was started"))
                continue
            place.has_slot = True
            place.since = now
            self._running += 1
            self._turns += 1
            caller = self._callers[place.caller]
            caller.running += 1
            caller.turn = self._turns
            self._quota.spend(place.caller, place.prompt_tokens, now)
            place.waiter.set_result(None)

    def _take(self) -> Place:
        """The waiting call whose turn it is, out of the queue."""
        place = self._queue.take(self._share_of)
        self._queue_tokens -= place.prompt_tokens
        return place

    def _free(self, place: Place) -> None:
        if not place.has_slot:
            return
        place.has_slot = False
        self._running -= 1
        self._callers[place.caller].running -= 1
        self._pace.held.add(self._clock() - place.since)
        self._grant()

    def _settle(self, place: Place, completion_tokens: int, first_token_at: float | None) -> None:
        self._quota.spend(place.caller, completion_tokens, self._clock())
        if first_token_at is not None:
            self._pace.first_token.add(first_token_at - place.since)

    def _turn_away(self, place: Place, error: AdmissionError) -> None:
        """Ends a call that waits."""
        assert place.waiter is not None
        if not place.waiter.done():
            place.waiter.set_exception(error)
        self._leave(place)

    def _leave(self, place: Place) -> None:
        if place.left:
            return
        place.left = True
        if self._queue.discard(place.caller, place):
            self._queue_tokens -= place.prompt_tokens
        self._free(place)
        self._open_calls -= 1
        caller = self._callers[place.caller]
        caller.open -= 1
        if not caller.open:
            del self._callers[place.caller]
        if not self._open_calls:
            self._idle.set()

    def _share_of(self, name: str) -> tuple[int, int]:
        """What a caller has of the slots, and how lately it got one."""
        caller = self._callers[name]
        return caller.running, caller.turn

    def _open_of(self, caller: str) -> int:
        return self._callers[caller].open if caller in self._callers else 0
