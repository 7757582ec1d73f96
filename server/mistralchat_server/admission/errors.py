"""Why a call does not get, or does not keep, its place."""


class AdmissionError(Exception):
    """Ends a call. The message is for the caller to read."""


class RefusedError(AdmissionError):
    """There is too much to do, or the caller is over its share; `retry_after` in seconds."""

    def __init__(self, subject: str, message: str, retry_after: float) -> None:
        super().__init__(message)
        #: What is exhausted.
        self.subject = subject
        self.retry_after = retry_after


class ClosedError(AdmissionError):
    """No call is started any more, or for the moment."""


class ExpiredError(AdmissionError):
    """The call's deadline has passed before it was started."""
