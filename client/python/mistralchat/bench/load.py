"""What load is put on the server: how calls begin, and how long prompts and answers are."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


class Lengths(Protocol):
    """A distribution of lengths in tokens. As a string it is what `parse_lengths` reads."""

    def draw(self, random: random.Random) -> int:
        """A length, at least 1."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always the same length."""

    tokens: int

    def draw(self, random: random.Random) -> int:
        return self.tokens

    def __str__(self) -> str:
        return f"{self.tokens}"


@dataclass(frozen=True, slots=True)
class Uniform:
    """Each length from `least` to `most` is as likely as any other."""

    least: int
    most: int

    def draw(self, random: random.Random) -> int:
        return random.randint(self.least, self.most)

    def __str__(self) -> str:
        return f"uniform:{self.least},{self.most}"


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Its logarithm is normal, as the lengths of real conversations nearly are: a long tail of long ones."""

    median: float
    sigma: float

    def draw(self, random: random.Random) -> int:
        return max(1, round(random.lognormvariate(math.log(self.median), self.sigma)))

    def __str__(self) -> str:
        return f"lognormal:{self.median:g},{self.sigma:g}"


def parse_lengths(text: str) -> Lengths:
    """Reads `128`, `uniform:64,512` or `lognormal:200,0.8` (median, sigma). Raises ValueError."""
    kind, _, rest = text.partition(":")
    arguments = rest.split(",")
    match kind, arguments:
        case "uniform", [least, most] if 1 <= int(least) <= int(most):
            return Uniform(int(least), int(most))
        case "lognormal", [median, sigma] if 1 <= float(median) < math.inf and 0 <= float(sigma) <= 5:
            return LogNormal(float(median), float(sigma))
        case _, [""] if ":" not in text and int(text) >= 1:
            return Fixed(int(text))
    raise ValueError(text)


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """So many callers, each with its next call when its last has ended."""

    callers: int

    @property
    def name(self) -> str:
        """For a person."""
        return f"{self.callers:,} caller{'s'[: self.callers != 1]}"


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """Calls arrive at random times (a Poisson process), however the server does."""

    rate: float
    """Calls per second, on average."""

    @property
    def name(self) -> str:
        """For a person."""
        return f"{self.rate:g} calls/s"


Load = ClosedLoop | OpenLoop


def arrivals(rate: float, random: random.Random) -> Iterator[float]:
    """Seconds from the beginning to each arrival of a Poisson process, without end."""
    now = 0.0
    while True:
        now += random.expovariate(rate)
        yield now
