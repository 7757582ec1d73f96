"""The benchmarks' suite: what it makes of a script's output, and that every script starts."""

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

_FOLDER = Path(__file__).parents[1] / "benchmarks"
_SCRIPTS = sorted(_FOLDER.glob("*.py"))


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(_FOLDER))
    return importlib.import_module("suite")


def _cells(suite: ModuleType, output: list[str], exit_code: int = 0) -> list[tuple[str, ...]]:
    targets = (
        suite.Target("speed, 64 streams", "ratio", at_least=0.75, where={"streams": 64}),
        suite.Target("delay", "delay ms", at_most=25, unit=" ms"),
        suite.Target("rate", "tokens/s"),
    )
    outcome = suite.Outcome.of(output, exit_code)
    return [tuple(row)[1:] for row in suite.rows(suite.Run(("some.py",), targets), outcome)]


def test_figures_are_put_beside_their_targets(suite: ModuleType) -> None:
    output = [
        '{"streams": 64, "ratio": 0.5, "delay ms": 30.0, "tokens/s": 20404}',
        '{"streams": 64, "ratio": 0.7512}',
        '{"streams": 1, "ratio": 0.1}',
        "ratio 0.1",
    ]
    assert _cells(suite, output) == [
        ("≥ 0.75", "0.751", "yes"),
        ("≤ 25 ms", "30 ms", "no"),
        ("-", "20,404", "-"),
    ]


@pytest.mark.parametrize(
    ("output", "exit_code", "measured", "met"),
    [
        (['{"skipped": "needs 8 cores"}', "ratio none"], 0, "skipped: needs 8 cores", "-"),
        (['{"streams": 64, "ratio": 0.9}'], 1, "failed: exit code 1", "no"),
        (['{"streams": 64, "ratio": 0.9}'], 0, "failed: no ratio at the end", "no"),
        (['{"streams": 1, "ratio": 0.9}', "ratio 0.9"], 0, "failed: no figure 'ratio'", "no"),
    ],
)
def test_a_row_says_why_there_is_no_figure(
    suite: ModuleType, output: list[str], exit_code: int, measured: str, met: str
) -> None:
    assert _cells(suite, output, exit_code)[0] == ("≥ 0.75", measured, met)


def test_the_table_is_written_between_its_marks(suite: ModuleType, tmp_path: Path) -> None:
    document = tmp_path / "BENCHMARKS.md"
    document.write_text(f"before\n{suite._BEGIN}\nold\n{suite._END}\nafter\n", encoding="utf-8")
    for _ in range(2):
        suite.write(document, [suite.Row("speed", "≥ 1", "2", "yes")], "Some machine.")
    assert document.read_text(encoding="utf-8") == (
        f"before\n{suite._BEGIN}\nSome machine.\n\n"
        f"| what | target | measured | met? |\n| --- | --- | --- | --- |\n| speed | ≥ 1 | 2 | yes |\n"
        f"{suite._END}\nafter\n"
    )


def test_the_kept_document_has_the_marks(suite: ModuleType) -> None:
    text = (_FOLDER.parents[1] / "docs/BENCHMARKS.md").read_text(encoding="utf-8")
    assert text.count(suite._BEGIN) == text.count(suite._END) == 1


def test_a_script_is_run_and_a_failure_told(
    suite: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "good.py").write_text("""print('{"ratio": 2}'); print("ratio 2")""", encoding="utf-8")
    (tmp_path / "bad.py").write_text("raise SystemExit(3)", encoding="utf-8")
    monkeypatch.setattr(suite, "_HERE", tmp_path)
    good, bad = (suite.Run((name,), [suite.Target(name, "ratio")]) for name in ("good.py", "bad.py"))
    monkeypatch.setattr(suite, "RUNS", (bad, good))
    assert suite.main([], None) == 1
    assert suite.main(["good"], None) == 0
    assert suite.carry_out(good, Console(quiet=True)).lines == [{"ratio": 2}]


def test_every_run_names_a_script(suite: ModuleType) -> None:
    assert {run.command[0] for run in suite.RUNS} <= {path.name for path in _SCRIPTS}


@pytest.mark.parametrize("script", _SCRIPTS, ids=lambda path: path.name)
def test_every_script_tells_its_use(script: Path) -> None:
    told = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=True)
    assert f"python tests/benchmarks/{script.name}" in told.stdout
