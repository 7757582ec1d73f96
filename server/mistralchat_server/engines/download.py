"""Downloads the files of a repository of the Hugging Face hub: resumable, with room for them, verified."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

from ..executor.seam import StartError
from .recipe import WHOLE, Checkpoint

#: Room that a download leaves on the disk, in bytes: a full disk harms more than this program.
_SPARE = 1 << 30
_BLOCK = 1 << 20


class DownloadError(StartError):
    """The files cannot be had. The message is one clear sentence for the operator."""


@dataclass(frozen=True)
class _File:
    """A file as the hub describes it: large ones by their SHA-256, small ones by their git object."""

    name: str
    size: int
    sha256: str | None
    git_object: str

    def is_whole(self, folder: Path) -> bool:
        path = folder / self.name
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        if self.sha256 is not None:
            return _digest(hashlib.sha256(), path) == self.sha256
        return _digest(hashlib.sha1(b"blob %d\0" % self.size), path) == self.git_object


def download(checkpoint: Checkpoint, target: Path, room: int, say: Callable[[str], None]) -> None:
    """Brings the files to `target`, shows the progress on standard error.

    Files that an interrupted download has brought are not asked for again, and a transfer that breaks off
    goes on where it was; a file in whose middle the process ended begins anew. `room` is how many bytes the
    disk must hold besides. Raises `DownloadError`.
    """
    repository = checkpoint.repository
    assert repository is not None
    with _told(repository):
        info = HfApi().model_info(repository, revision=checkpoint.revision, files_metadata=True)
    commit = str(info.sha)
    files = [_file(sibling) for sibling in info.siblings or ()]
    wanted = [file for file in files if any(fnmatch(file.name, pattern) for pattern in checkpoint.files)]
    if not wanted:
        raise DownloadError(f"{repository} has none of the files {', '.join(checkpoint.files)}.")
    target.mkdir(parents=True, exist_ok=True)
    _check_room(target, _missing(target, wanted) + room)
    with _told(repository):
        snapshot_download(
            repository, revision=commit, local_dir=target, allow_patterns=[file.name for file in wanted]
        )
    say(f"checking {len(wanted)} files of {repository} at {commit[:12]}")
    for file in wanted:
        if not file.is_whole(target):
            (target / file.name).unlink(missing_ok=True)
            raise DownloadError(
                f"{file.name} of {repository} did not arrive as the hub describes it, and was removed: "
                "run the command again."
            )
    for rest in target.rglob("*.incomplete"):
        rest.unlink()
    (target / WHOLE).write_text(commit + "\n", encoding="utf-8")


def _file(sibling: Any) -> _File:
    lfs = sibling.lfs
    return _File(sibling.rfilename, sibling.size, None if lfs is None else lfs.sha256, sibling.blob_id)


def _missing(folder: Path, files: list[_File]) -> int:
    return sum(file.size for file in files if not (folder / file.name).is_file())


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed + _SPARE > free:
        raise DownloadError(
            f"{folder} needs {(needed + _SPARE) / 1e9:.1f} GB of free disk, and {free / 1e9:.1f} GB are "
            "free. XDG_CACHE_HOME can name a folder on another disk."
        )


def _digest(state: Any, path: Path) -> str:
    with path.open("rb") as content:
        while block := content.read(_BLOCK):
            state.update(block)
    return str(state.hexdigest())


@contextmanager
def _told(repository: str) -> Iterator[None]:
    """Turns the hub's errors into sentences."""
    try:
        yield
    except GatedRepoError as error:
        raise DownloadError(
            f"{repository} is given out to those who have accepted its terms: do so on its page at the "
            "Hugging Face hub, then set HF_TOKEN."
        ) from error
    except LocalEntryNotFoundError as error:
        raise DownloadError(_unreachable(repository)) from error
    except HfHubHTTPError as error:
        raise DownloadError(
            f"The Hugging Face hub does not give out {repository} (HTTP {error.response.status_code}). "
            "Is the name right, and HF_TOKEN set?"
        ) from error
    except Exception as error:
        # The hub's client has gone through three HTTP libraries so far, each with errors of its own.
        raise DownloadError(f"{_unreachable(repository)} ({type(error).__name__}: {error})") from error


def _unreachable(repository: str) -> str:
    return (
        f"The Hugging Face hub cannot be reached to download {repository}; run the command again to resume."
    )
