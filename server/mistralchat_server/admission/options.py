"""The settings of admission."""

from pydantic import BaseModel, Field


class AdmissionOptions(BaseModel, extra="forbid", frozen=True):
    """Whom the server answers when more is asked of it than it can do."""

    max_queue_seconds: float = Field(
        2.0,
        gt=0,
        description="Most seconds that a call may be expected to wait; under a load that lasts, far less.",
    )
    max_queue_tokens: int = Field(262_144, ge=1, description="Most prompt tokens of all calls that wait.")
    max_calls_per_caller: int = Field(
        0, ge=0, description="Most open calls of one caller: an identity, else an address. 0 is no limit."
    )
    tokens_per_minute: int = Field(
        0,
        ge=0,
        description="Tokens of prompts and answers that one caller may use in a minute. 0 is no limit.",
    )
