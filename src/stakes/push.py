"""A finished run as a model repository of the Hugging Face hub: weights, config and card, and nothing else."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from stakes.errors import ConfigError, NetworkError, OutputError, RunFolderError
from stakes.files import digest_tensors, write_bytes, write_json, writing
from stakes.models.weights import read_json
from stakes.records import Record
from stakes.report.card import model_card

FILES = ("README.md", "config.json", "model.safetensors")
TOKEN = "HF_TOKEN"  # noqa: S105  # the variable's name


def export_run(run: str | Path, folder: str | Path) -> Path:
    """Write what a hub repository of a run would hold: ``model.safetensors``, ``config.json`` and ``README.md``.

    The run folder itself may hold personal data (pictures of analyses, file names in the request); the rest of it is
    never copied. The weights are copied byte for byte, after a check that they are those the record was measured on.
    Class names stand in ``config.json``: look at them before you publish.

    Args:
        run: the folder of a finished run.
        folder: a new or empty folder.

    Returns:
        The folder; ``stakes.load_checkpoint(folder)`` gives bit-equal logits.

    Raises:
        RunFolderError: the run is not finished, or its weights are not those of its record.
        OutputError: the folder holds something already, or cannot be written.

    Example:
        >>> export_run("runs/request-17", "to-publish")  # doctest: +SKIP
    """
    run, folder = Path(run), Path(folder)
    _refuse_altered(run, Record.load(run / "record.json"))
    card = model_card(run)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(
            f"folder {folder}", expected="a new or empty folder", got="one with something in it"
        )
    with writing(folder) as temporary:
        temporary.mkdir()
        write_bytes(temporary / "README.md", card.encode())
        write_json(temporary / "config.json", _without_origin(read_json(run / "config.json")))
        write_bytes(temporary / "model.safetensors", (run / "model.safetensors").read_bytes())
    return folder


def push_run(run: str | Path, repo_id: str, *, public: bool = False) -> str:
    """Upload a finished run to the hub as one commit: what `export_run` writes, and nothing else.

    A repository that does not exist is made, private unless ``public``; one that exists keeps its visibility. The
    token is read from the environment variable ``HF_TOKEN`` and from nowhere else. Another hub is named by
    ``HF_ENDPOINT``, as huggingface_hub has it.

    Returns:
        The address of the commit.

    Raises:
        ConfigError: no token in the environment.
        RunFolderError: as `export_run`.
        NetworkError: the hub cannot be reached, or refuses the token or the name.

    Example:
        >>> push_run("runs/request-17", "my-team/cats-after-17")  # doctest: +SKIP
    """
    token = os.environ.get(TOKEN)
    if not token:
        raise ConfigError(
            "push",
            expected=f"a token with write access in the environment variable {TOKEN}",
            got="none",
            fix="Or write the same files to a folder: --to-folder DIR.",
        )
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    # The first base is the error of the HTTP library, which has changed between versions of huggingface_hub.
    troubles: tuple[type[Exception], ...] = (HfHubHTTPError.__bases__[0], OSError, ValueError, RuntimeError)
    with tempfile.TemporaryDirectory(prefix="stakes-push-") as temporary:
        folder = export_run(run, Path(temporary) / "files")
        api = HfApi(token=token)
        try:
            api.create_repo(repo_id, private=not public, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                allow_patterns=list(FILES),
                commit_message="Model after unlearning",
            )
        except troubles as error:
            raise NetworkError(
                f"the hub did not take {repo_id}",
                got=_first_line(error).replace(token, "[token]"),
                fix="Check the name, the token's rights and the network.",
            ) from None  # the cause may carry the request with its headers
    return str(commit.commit_url)


def _refuse_altered(run: Path, record: Record) -> None:
    """The weights must be those that the record was measured on."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = digest_tensors(load_file(run / "model.safetensors"))
    except (OSError, SafetensorError) as error:
        raise RunFolderError(f"weights of {run} cannot be read", got=str(error)) from None
    if found != record.hashes.model_after or not (run / "config.json").is_file():
        raise RunFolderError(
            f"weights in {run}",
            expected=f"config.json, and weights with hash {record.hashes.model_after[:12]}, as in the record",
            got=f"hash {found[:12]}",
            fix="They were changed after the run; run it again.",
        )


def _without_origin(config: Any) -> Any:
    """A config without the folder or repository that transformers notes its network came from."""
    if isinstance(config, dict):
        return {key: _without_origin(value) for key, value in config.items() if key != "_name_or_path"}
    return config


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
