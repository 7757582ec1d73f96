"""Says what is wrong with a request in the names of the token-level protocol."""

import re

from google.rpc import error_details_pb2

from ..errors import CallError, Violation, invalid, unsupported

_NAMES = {
    "max_completion_tokens": "max_tokens",
    "stop_words_list": "stop",
    "bad_words_list": "bad",
    "response_format.json_schema": "guided_decoding",
    "response_format.regex": "guided_decoding",
    "response_format.grammar": "guided_decoding",
    "response_format": "guided_decoding",
}
#: The longer names come first, and so are found first.
_PATTERN = re.compile(rf"\b({'|'.join(map(re.escape, _NAMES))})\b")


def renamed(error: CallError) -> CallError:
    """The same error, whose fields have the names that the caller used."""
    match error.details:
        case [error_details_pb2.BadRequest() as bad_request]:
            return invalid(
                Violation(_field(violation.field), _renamed(violation.description))
                for violation in bad_request.field_violations
            )
        case [error_details_pb2.ErrorInfo() as info]:
            return unsupported(_renamed(info.metadata["parameter"]), _renamed(info.metadata["reason"]))
        case _:
            return error


def _field(name: str) -> str:
    return "input_token_ids" if name == "messages" else _renamed(name)


def _renamed(text: str) -> str:
    return _PATTERN.sub(lambda match: _NAMES[match.group()], text)
