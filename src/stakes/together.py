"""Files that belong together: after a kill at any moment all of them are there at the next `settle`, or none."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Mapping
from pathlib import Path

import torch

from stakes.files import output_error, write_tensors, writing

_STAGED = ".staged"


def write_together(folder: Path, files: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    """Write files of named tensors into ``folder``, all or none.

    They are written into a hidden folder beside their places; its rename decides that they exist. Moving them out of it
    is what `settle` does, here or, after a kill, at the next call.

    Args:
        files: by their names in ``folder``; files of these names are replaced.

    Raises:
        OutputError: no space or no permission; nothing was added then.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_together(folder, {"a.safetensors": {"x": torch.ones(1)}, "b.safetensors": {"x": torch.zeros(1)}})
        >>> sorted(path.name for path in folder.iterdir())
        ['a.safetensors', 'b.safetensors']
    """
    # A name of its own: two processes may write the same files into one cache.
    with writing(folder / f".{uuid.uuid4().hex}{_STAGED}") as staged:
        staged.mkdir()
        for name, tensors in files.items():
            write_tensors(staged / name, tensors)
    settle(folder)


def settle(folder: Path) -> None:
    """Move to their places what a killed `write_together` had finished.

    Raises:
        OutputError: no permission.
    """
    for staged in folder.glob(f".*{_STAGED}"):
        try:
            for file in list(staged.iterdir()):
                with contextlib.suppress(FileNotFoundError):  # another process was quicker
                    os.replace(file, folder / file.name)
            staged.rmdir()
        except FileNotFoundError:  # here too
            continue
        except OSError as error:
            raise output_error(folder, error) from error
