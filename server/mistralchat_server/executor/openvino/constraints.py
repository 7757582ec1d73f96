"""Translates constraints into OpenVINO GenAI's structured output."""

import json

from openvino_genai import StructuredOutputConfig

from ..messages import Constraint, ConstraintKind


def structured_output(constraint: Constraint) -> StructuredOutputConfig:
    """The engine's form of `constraint`. Nothing is compiled yet."""
    match constraint.kind:
        case ConstraintKind.EXCLUDED_STRINGS:
            any_text = {"type": "any_text", "excludes": list(constraint.sources)}
            tag = {"type": "structural_tag", "format": any_text}
            return StructuredOutputConfig(structural_tags_config=json.dumps(tag))
        case ConstraintKind.JSON_SCHEMA:
            return StructuredOutputConfig(json_schema=constraint.sources[0])
        case ConstraintKind.REGEX:
            return StructuredOutputConfig(regex=constraint.sources[0])
        case ConstraintKind.GRAMMAR:
            return StructuredOutputConfig(grammar=constraint.sources[0])
