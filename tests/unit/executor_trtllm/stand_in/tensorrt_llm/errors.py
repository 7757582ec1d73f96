"""How a rejected request shows."""


class RequestError(RuntimeError):
    """One request failed; the engine goes on."""
