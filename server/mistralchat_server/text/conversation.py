"""A caller's conversation, and why one is refused."""

from typing import NamedTuple


class Turn(NamedTuple):
    """One message."""

    role: str  # "system", "user" or "assistant"
    content: str


class TemplateRefusal(ValueError):  # noqa: N818  (not a fault of the program)
    """The chat template refuses the conversation; the message is for the caller."""
