"""Finds a model's files: on this machine, or in a repository of the Hugging Face hub."""

from pathlib import Path

from .executor.seam import StartError

#: What an executor or a tokenizer reads; weights in other formats stay where they are.
_PATTERNS = ["*.xml", "*.bin", "*.json", "*.jinja", "*.model", "*.txt"]


def find(model: str) -> Path:
    """The path of a model's files, downloading those of a repository id (`owner/name`) that is not here.

    Shows the download's progress on standard error. Raises `StartError`.
    """
    path = Path(model).expanduser()
    if path.exists():
        return path.resolve()
    if model.count("/") != 1 or model.startswith(("/", ".", "~")) or model.endswith(".gguf"):
        raise StartError(f"There is no model at {model}.")
    return _download(model)


def _download(repository: str) -> Path:
    # Here and not above: it takes half a second to import and is rarely needed.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, allow_patterns=_PATTERNS))
    except HFValidationError as error:
        raise StartError(f"There is no model at {repository}, and it is no repository's id.") from error
    except LocalEntryNotFoundError as error:
        raise StartError(
            f"There is no model at {repository}, and the Hugging Face hub cannot be reached to download it. "
            "Give the path of a GGUF file or of a directory in OpenVINO's format."
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise StartError(
            f"The Hugging Face hub does not give out {repository} (HTTP {status}). "
            "Is the name right, and is HF_TOKEN set if it is a gated model?"
        ) from error
    except OSError as error:
        raise StartError(f"The download of {repository} failed: {error.strerror or error}.") from error
