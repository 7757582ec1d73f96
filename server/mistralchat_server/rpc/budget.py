"""How many tokens a call may generate."""

from dataclasses import dataclass

from mistralchat.v1 import chat_pb2 as pb

from .errors import Violation, invalid

#: The documented default of `max_tokens`, the prompt included.
DEFAULT_MAX_TOKENS = 50


@dataclass(frozen=True)
class Budget:
    """What a request allows for a prompt of a known length."""

    prompt_tokens: int
    max_new_tokens: int
    #: `max_tokens` is smaller than the prompt, and so many of its tokens are the answer.
    truncated_to: int | None = None

    @classmethod
    def of(cls, request: pb.ChatRequest, prompt_tokens: int, context_length: int) -> "Budget":
        """Raises INVALID_ARGUMENT where the prompt fills the context or `min_tokens` exceeds the budget."""
        room = context_length - prompt_tokens
        if room < 1:
            too_long = (
                f"become {prompt_tokens:,} tokens, which leave no room in a context of {context_length:,}"
            )
            raise invalid([Violation("messages", too_long)])
        if request.HasField("max_completion_tokens"):
            name, allowed = "max_completion_tokens", request.max_completion_tokens
        else:
            total = request.max_tokens if request.HasField("max_tokens") else DEFAULT_MAX_TOKENS
            name, allowed = "max_tokens", total - prompt_tokens
        max_new_tokens = min(max(allowed, 0), room)
        if request.min_tokens > max_new_tokens:
            reason = f"exceeds the {max_new_tokens:,} tokens that {name} and the context leave for the answer"
            raise invalid([Violation("min_tokens", reason)])
        truncated_to = prompt_tokens + allowed if allowed < 0 else None
        return cls(prompt_tokens, max_new_tokens, truncated_to)
