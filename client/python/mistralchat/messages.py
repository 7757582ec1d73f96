"""The conversation as a caller writes it, and as the wire carries it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from mistralchat.v1 import chat_pb2

_ROLES = {
    "system": chat_pb2.ROLE_SYSTEM,
    "user": chat_pb2.ROLE_USER,
    "assistant": chat_pb2.ROLE_ASSISTANT,
}


class Message(NamedTuple):
    """One turn: `role` is "system", "user" or "assistant"."""

    role: str
    content: str


Messages: TypeAlias = str | Sequence[Message | tuple[str, str] | Mapping[str, str]]
"""A question, or a conversation: `Message`s, `(role, content)` pairs, role/content mappings."""


def system(content: str) -> Message:
    """Instructions that stand above the conversation."""
    return Message("system", content)


def user(content: str) -> Message:
    """What the person says."""
    return Message("user", content)


def assistant(content: str) -> Message:
    """What the model said."""
    return Message("assistant", content)


def wire_messages(messages: Messages) -> list[chat_pb2.Message]:
    """The conversation in the contract's form.

    Raises TypeError for an item that is no message, ValueError for a role that does not exist.
    """
    if isinstance(messages, str):
        messages = [user(messages)]
    return [_wire_message(message) for message in messages]


def _wire_message(message: Message | tuple[str, str] | Mapping[str, str]) -> chat_pb2.Message:
    match message:
        case {"role": role, "content": content, **rest} if not rest:
            pass
        case (role, content):
            pass
        case _:
            raise TypeError(f"a message is a role and a content, not {message!r}")
    if role not in _ROLES:
        raise ValueError(f"a role is one of {', '.join(_ROLES)}, not {role!r}")
    return chat_pb2.Message(role=_ROLES[role], content=content)
