"""Python client of mistralchat: chat with a served Mistral model over gRPC.

    from mistralchat import ChatClient

    with ChatClient("localhost:50051") as client:
        for piece in client.chat("Why is the sky blue?"):
            print(piece, end="", flush=True)

`AsyncChatClient` is the same for asyncio. Every failed call raises a `ChatError`. The generated code is
in `mistralchat.v1`, for whoever wants the contract itself.
"""

from mistralchat.aio import AsyncChatClient, AsyncChatStream
from mistralchat.answer import Answer, Beam, FinishReason, Timings, Usage
from mistralchat.client import ChatClient, ChatStream
from mistralchat.errors import (
    Cancelled,
    ChatError,
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    PermissionDenied,
    ServerFault,
    Unauthenticated,
    Unavailable,
    Unsupported,
    Violation,
)
from mistralchat.messages import Message, Messages, assistant, system, user
from mistralchat.parameters import DEFAULT_MAX_COMPLETION_TOKENS, ChatParameters
from mistralchat.tls import TLS

__all__ = [
    "DEFAULT_MAX_COMPLETION_TOKENS",
    "TLS",
    "Answer",
    "AsyncChatClient",
    "AsyncChatStream",
    "Beam",
    "Cancelled",
    "ChatClient",
    "ChatError",
    "ChatParameters",
    "ChatStream",
    "DeadlineExceeded",
    "FinishReason",
    "InvalidRequest",
    "Message",
    "Messages",
    "Overloaded",
    "PermissionDenied",
    "ServerFault",
    "Timings",
    "Unauthenticated",
    "Unavailable",
    "Unsupported",
    "Usage",
    "Violation",
    "assistant",
    "system",
    "user",
]
