"""All ways to call the server wrong that are known here, and docs/bad-input.md, which lists them.

`python -m tests.bad_input.table --write` renews the document after a case was added or changed.
"""

import argparse
import sys
from pathlib import Path

from . import protocol, requests
from .case import Case

DOCUMENT = Path(__file__).parents[2] / "docs" / "bad-input.md"
TABLE: dict[str, list[Case]] = {
    "Messages": requests.MESSAGES,
    "Numbers": requests.NUMBERS,
    "Fields that exclude or need each other": requests.COMBINATIONS,
    "Bad words and stop words": requests.WORDS,
    "Response formats": requests.FORMATS,
    "Constraints that do not compile (CPU engine)": requests.CONSTRAINTS,
    "Parameters that the executor lacks": requests.UNSUPPORTED,
    "The token-level service": requests.TOKEN_LEVEL,
    "Bytes that are no request": requests.BYTES,
    "Calls and their circumstances": requests.CALLS,
    "gRPC": protocol.GRPC,
    "Connections": protocol.CONNECTIONS,
    "HTTP/2 frames": protocol.FRAMES,
    "Floods": protocol.FLOODS,
}
_HEAD = """\
# Calling it wrong

What comes of each mistake, and of each attempt to do harm. Every row is a test (`tests/bad_input`), which
also sees that afterwards the executor is idle and the next good call is answered. This page is written by
`python -m tests.bad_input.table --write`.

A status is followed by the fields that its `BadRequest` names, or by the parameter of its `ErrorInfo`. Where
a connection stays open, the frames were passed over, or the server waits for more. A request whose message
is missing or too short for its prefix is never heard of by the service: it ends at its own deadline.
"""


def document() -> str:
    """docs/bad-input.md as it has to be."""
    parts = [_HEAD]
    for title, cases in TABLE.items():
        rows = "".join(f"| {case.what} | {case.outcome} |\n" for case in cases)
        parts.append(f"## {title}\n\n| what | outcome |\n|---|---|\n{rows}")
    return "\n".join(parts)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", required=True, help="renew docs/bad-input.md")
    parser.parse_args()
    DOCUMENT.write_text(document(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
