"""Says what is wrong with a request in the names of the token-level protocol."""

import re

from google.rpc import error_details_pb2

from ..errors import CallError

_NAMES = {
    "max_completion_tokens": "max_tokens",
    "stop_words_list": "stop",
    "bad_words_list": "bad",
    "response_format.json_schema": "guided_decoding",
    "response_format.regex": "guided_decoding",
    "response_format.grammar": "guided_decoding",
    "response_format": "guided_decoding",
    "top_logprobs": "logprobs",
}
#: The longer names come first, and so are found first.
_PATTERN = re.compile(rf"\b({'|'.join(map(re.escape, _NAMES))})\b")


def renamed(error: CallError) -> CallError:
    """The same error, whose fields have the names that the caller used."""
    details = []
    for detail in error.details:
        match detail:
            case error_details_pb2.BadRequest():
                bad_request = error_details_pb2.BadRequest()
                for violation in detail.field_violations:
                    field = "input_token_ids" if violation.field == "messages" else _renamed(violation.field)
                    bad_request.field_violations.add(field=field, description=_renamed(violation.description))
                details.append(bad_request)
            case error_details_pb2.ErrorInfo():
                info = error_details_pb2.ErrorInfo()
                info.CopyFrom(detail)
                for key, value in detail.metadata.items():
                    info.metadata[key] = _renamed(value)
                details.append(info)
            case _:
                details.append(detail)
    message = _renamed(str(error))
    if message.startswith("messages: "):
        message = message.replace("messages", "input_token_ids", 1)
    return CallError(error.code, message, *details)


def _renamed(text: str) -> str:
    return _PATTERN.sub(lambda match: _NAMES[match.group()], text)
