"""One fuzzing process on atheris: `python -m tests.fuzz.harness TARGET HOW [FLAG of libFuzzer ...]`."""

import random
import sys

import atheris

with atheris.instrument_imports(include=["mistralchat_server", "jinja2"]):
    from . import targets

from .mutation import mutated, parsed


def main() -> None:
    """Runs until libFuzzer's limits are reached; a finding ends the process with its input kept."""
    target, how = sys.argv[1:3]
    kind, _ = targets.TARGETS[target]

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        changed = mutated(parsed(kind, data), random.Random(seed))
        return changed if len(changed) <= max_size else bytes(atheris.Mutate(data, max_size))

    mutators = {"custom_mutator": mutate} if how == "structure" else {}
    targets.tokenizers()
    atheris.Setup([sys.argv[0], *sys.argv[3:]], lambda data: targets.check(target, data), **mutators)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
