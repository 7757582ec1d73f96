"""Translates constraints into OpenVINO GenAI's structured output."""

from openvino_genai import StructuredOutputConfig

from ..messages import Constraint, ConstraintKind
from ..structural_tag import excluded_strings


def structured_output(constraint: Constraint) -> StructuredOutputConfig:
    """The engine's form of `constraint`. Nothing is compiled yet."""
    match constraint.kind:
        case ConstraintKind.EXCLUDED_STRINGS:
            return StructuredOutputConfig(structural_tags_config=excluded_strings(constraint))
        case ConstraintKind.JSON_SCHEMA:
            return StructuredOutputConfig(json_schema=constraint.sources[0])
        case ConstraintKind.REGEX:
            return StructuredOutputConfig(regex=constraint.sources[0])
        case ConstraintKind.GRAMMAR:
            return StructuredOutputConfig(grammar=constraint.sources[0])
