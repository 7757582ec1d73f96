"""Translates constraints into TensorRT-LLM's guided decoding."""

from tensorrt_llm.llmapi import GuidedDecodingParams

from ..messages import Constraint, ConstraintKind
from ..structural_tag import excluded_strings


def guided_decoding(constraint: Constraint) -> GuidedDecodingParams:
    """The engine's form of `constraint`. Nothing is compiled yet."""
    match constraint.kind:
        case ConstraintKind.EXCLUDED_STRINGS:
            # `bad` of SamplingParams bans token sequences, which leaves other ways to spell the string.
            return GuidedDecodingParams(structural_tag=excluded_strings(constraint))
        case ConstraintKind.JSON_SCHEMA:
            return GuidedDecodingParams(json=constraint.sources[0])
        case ConstraintKind.REGEX:
            return GuidedDecodingParams(regex=constraint.sources[0])
        case ConstraintKind.GRAMMAR:
            return GuidedDecodingParams(grammar=constraint.sources[0])
