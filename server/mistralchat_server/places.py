"""Where an exception arose, for the log: its text may quote what a caller wrote, so that is left out."""

import traceback


def places(error: BaseException) -> str:
    """The types and places of an exception and of what it was raised from."""
    parts = []
    following: BaseException | None = error
    while following is not None:
        frames = traceback.extract_tb(following.__traceback__)
        lines = [f"\n    {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
        parts.append(type(following).__qualname__ + "".join(lines))
        hidden = None if following.__suppress_context__ else following.__context__
        following = following.__cause__ or hidden
    return "\n  from ".join(parts)
