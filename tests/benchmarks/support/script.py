"""What every script prints: lines of JSON with its figures, and one ratio last. `suite.py` reads them."""

import argparse
import json
import signal


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Of a script's arguments; its docstring is the help. From now on SIGTERM ends it as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def report(figures: dict[str, object]) -> None:
    """One line of figures by name, with their units."""
    print(json.dumps(figures), flush=True)


def close_with(ratio: float) -> None:
    """The last line."""
    print(f"ratio {ratio:.3f}", flush=True)


def skip(reason: str) -> None:
    """All that a script prints that cannot run on this machine."""
    print(json.dumps({"skipped": reason}))
    print("ratio none")
