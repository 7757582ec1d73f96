import logging
import re
from pathlib import Path

import pytest

from mistralchat_server.security import command
from mistralchat_server.security.keys import Keys, line, new_key
from mistralchat_server.security.watched import UnusableFileError


def _file(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "keys"
    path.write_text("\n".join(lines))
    return path


def test_a_key_is_recognised_by_its_digest(tmp_path: Path) -> None:
    alice, bob = new_key(), new_key()
    path = _file(tmp_path, "# who may call", "", line("alice", alice), line("bob", bob) + "  # until May")
    keys = Keys(path)
    assert (keys.owner(alice), keys.owner(bob)) == ("alice", "bob")
    assert [keys.owner(wrong) for wrong in (new_key(), "", alice[:-1], alice + "x", "alice")] == [None] * 5
    assert alice not in path.read_text()


def test_keys_are_long_and_differ() -> None:
    made = {new_key() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch(r"mck_[A-Za-z0-9_-]{43}", key) for key in made)


def test_a_name_may_have_two_keys_while_one_replaces_the_other(tmp_path: Path) -> None:
    old, new = new_key(), new_key()
    path = _file(tmp_path, line("alice", old), line("alice", new))
    keys = Keys(path)
    assert (keys.owner(old), keys.owner(new)) == ("alice", "alice")
    path.write_text(line("alice", new))
    assert (keys.owner(old), keys.owner(new)) == (None, "alice")


def test_a_file_that_is_damaged_while_in_use_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = new_key()
    path = _file(tmp_path, line("alice", key))
    keys = Keys(path)
    path.write_text(f"alice: {key}")
    with caplog.at_level(logging.INFO):
        assert [keys.owner(key) for _ in range(3)] == ["alice"] * 3
        assert len(caplog.records) == 1
        assert f"{path}, line 1" in caplog.text
        # Whoever wrote the key there in place of its digest should not find it in the log, too.
        assert key not in caplog.text
        path.unlink()
        assert keys.owner(key) == "alice"
        path.write_text(line("bob", key))
        assert keys.owner(key) == "bob"


def test_an_empty_file_lets_nobody_in(tmp_path: Path) -> None:
    assert Keys(_file(tmp_path)).owner(new_key()) is None


@pytest.mark.parametrize(
    "content",
    [
        "alice",
        "alice: sha256:abc",
        "alice: md5:" + "0" * 64,
        "alice: sha256:" + "g" * 64,
        ": sha256:" + "0" * 64,
    ],
)
def test_a_line_of_another_form_is_told_by_its_number(tmp_path: Path, content: str) -> None:
    with pytest.raises(UnusableFileError, match="line 2"):
        Keys(_file(tmp_path, line("bob", new_key()), content))


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnusableFileError, match=re.escape(str(path))):
        Keys(path)


def test_the_command_prints_a_key_and_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["new", "alice"]) == 0
    told = capsys.readouterr()
    key = told.out.strip()
    assert Keys(_file(tmp_path, told.err.splitlines()[-1])).owner(key) == "alice"
    assert key not in told.err


def test_the_command_adds_the_line_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys"
    keys = []
    for name in ("alice", "bob"):
        assert command.main(["new", name, "--add", str(path)]) == 0
        keys.append(capsys.readouterr().out.strip())
    assert [Keys(path).owner(key) for key in keys] == ["alice", "bob"]


@pytest.mark.parametrize("name", ["", "-", "a b", "a:b", "a\nb", "a#b", "x" * 65])
def test_the_command_refuses_names_that_cannot_be(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(["new", "--", name])
    assert caught.value.code == 2
    assert capsys.readouterr().out == ""


def test_the_command_tells_of_a_file_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["new", "alice", "--add", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert str(tmp_path) in told.err
    assert told.out == ""
