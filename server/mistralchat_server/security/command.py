"""The command line of `mistralchat keys`."""

import argparse
import sys

from . import keys


def main(argv: list[str]) -> int:
    """Makes a key: prints it, and the line that lets it in."""
    parser = argparse.ArgumentParser(
        prog="mistralchat keys",
        description="Makes keys that callers identify themselves with. The server knows their digests only.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    new = commands.add_parser(
        "new",
        help="make a key",
        description="Prints a new key to standard output, once, and to standard error the line for the "
        "file that `mistralchat serve --keys FILE` reads. With --add the line is added there.",
    )
    new.add_argument("name", help="whom the key identifies")
    new.add_argument("--add", metavar="FILE", help="the keys file to add the line to; made if there is none")
    options = parser.parse_args(argv)
    key = keys.new_key()
    try:
        line = keys.line(options.name, key)
        if options.add is None:
            sys.stderr.write(f"for the keys file:\n{line}\n")
        else:
            with open(options.add, "a", encoding="utf-8") as file:
                file.write(f"{line}\n")
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        sys.stderr.write(f"mistralchat keys: cannot write {options.add}: {error.strerror}\n")
        return 1
    sys.stdout.write(f"{key}\n")
    return 0
