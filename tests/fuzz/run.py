"""Fuzzes the requests: `python -m tests.fuzz.run --runs 100000`; `make fuzz`.

Each message is fuzzed twice, by its bytes and by its structure, from the corpus that is kept here. New
inputs gather in .cache/fuzz; `--merge` takes those that reach new code into the corpus. Ends with code 1
after a finding, whose input is then in .cache/fuzz/findings.
"""

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .seeds import CORPUS
from .targets import TARGETS

_CACHE = Path(".cache/fuzz")
_HOW = ("bytes", "structure")
#: Bytes of an input at most, and seconds after which one counts as endless.
_LIMITS = ("-max_len=16384", "-timeout=30")
#: Inputs above this size stay out of the corpus, which is kept in git.
_LARGEST_KEPT = 2_000


def _libfuzzer(target: str, how: str, *flags: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.fuzz.harness", target, how, *_LIMITS, *map(str, flags)]
    return subprocess.run(command, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True, check=False)


def _fuzz(target: str, how: str, runs: int, seed: int) -> tuple[int, str]:
    """Executions, and what was found, if anything."""
    gathered = _CACHE / target
    gathered.mkdir(parents=True, exist_ok=True)
    findings = _CACHE / "findings"
    findings.mkdir(exist_ok=True)
    flags = [
        f"-runs={runs}",
        f"-seed={seed}",
        "-print_final_stats=1",
        f"-artifact_prefix={findings}/{target}-",
    ]
    ended = _libfuzzer(target, how, *flags, gathered, CORPUS / target)
    executed = re.search(r"number_of_executed_units: (\d+)", ended.stdout)
    if ended.returncode:
        return int(executed[1]) if executed else 0, ended.stdout[-3_000:]
    assert executed, ended.stdout[-3_000:]
    return int(executed[1]), ""


def _merge(target: str) -> None:
    ended = _libfuzzer(
        target, "bytes", "-merge=1", f"-max_len={_LARGEST_KEPT}", CORPUS / target, _CACHE / target
    )
    ended.check_returncode()


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=100_000, help="executions in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--merge", action="store_true", help="then renew the corpus")
    options = parser.parse_args()
    console = Console()
    table = Table("message", "mutations", "executions", "seconds", "findings")
    found = []
    each = -(-options.runs // (len(TARGETS) * len(_HOW)))
    for target in TARGETS:
        for how in _HOW:
            began = time.monotonic()
            with console.status(f"{target}, {how}: {each:,} executions"):
                executed, finding = _fuzz(target, how, each, options.seed)
            seconds = f"{time.monotonic() - began:.0f}"
            table.add_row(target, how, f"{executed:,}", seconds, "1" if finding else "0")
            found += [finding] if finding else []
        if options.merge:
            _merge(target)
    console.print(table)
    for finding in found:
        console.print(finding, markup=False, highlight=False)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
