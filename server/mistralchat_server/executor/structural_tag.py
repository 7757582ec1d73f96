"""Strings that free text must not hold, in the form that xgrammar takes in either engine."""

import json

from .messages import Constraint


def excluded_strings(constraint: Constraint) -> str:
    """The structural tag, as JSON text, for a constraint of that kind."""
    any_text = {"type": "any_text", "excludes": list(constraint.sources)}
    return json.dumps({"type": "structural_tag", "format": any_text})
