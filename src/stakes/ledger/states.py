"""The states that the model has been in, each a checkpoint in a folder named by its hash."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from stakes.errors import CheckpointError
from stakes.files import digest_json, removing, writing
from stakes.ledger.errors import LedgerError
from stakes.models.checkpoint import load_checkpoint, save_checkpoint
from stakes.models.classifier import Classifier

_FILES = ("model.safetensors", "config.json")


def config_hash(classifier: Classifier) -> str:
    """SHA-256 of what ``config.json`` says: the same weights with classes in another order are another model."""
    return digest_json(classifier.config)


@dataclass(frozen=True)
class ModelStates:
    """``models/<hash of the weights>/``: whole or absent, and checked whenever one is loaded."""

    path: Path
    factory: Callable[[], nn.Module] | None = None

    def folder(self, state: str) -> Path:
        """Where a state is, or would be."""
        return self.path / state

    def put(self, classifier: Classifier) -> str:
        """Keep a classifier; gives its hash."""
        state = classifier.fingerprint()
        if not self.folder(state).is_dir():
            save_checkpoint(classifier, self.folder(state))
        return state

    def put_run(self, run: Path, state: str) -> None:
        """Keep the model of a finished run. The bytes are shared with the run folder where the disk can do that."""
        if self.folder(state).is_dir():
            return
        with writing(self.folder(state)) as folder:
            folder.mkdir()
            for name in _FILES:
                _link(run / name, folder / name)

    def load(self, state: str, config: str) -> Classifier:
        """The classifier of a state, on the CPU.

        Raises:
            LedgerError: it is gone or damaged.
        """
        folder = self.folder(state)
        if not folder.is_dir():
            raise LedgerError(
                f"model state {state[:12]}… is not in {self.path}",
                expected=str(folder),
                fix="Restore that folder from a backup.",
            )
        try:
            classifier = load_checkpoint(folder, factory=self.factory)
        except CheckpointError as error:
            raise _damaged(folder, str(error)) from error
        if classifier.fingerprint() != state:
            raise _damaged(folder, f"weights with the hash {classifier.fingerprint()[:12]}…")
        if config_hash(classifier) != config:
            raise _damaged(folder, "another config.json than the one it was kept with")
        return classifier

    def present(self) -> list[str]:
        """Names of all folders here."""
        return sorted(entry.name for entry in self.path.iterdir()) if self.path.is_dir() else []

    def remove(self, name: str) -> None:
        """Drop a folder; it leaves its place in one step, so no half of it can be taken for a state."""
        folder = self.path / name
        with removing(str(folder)):
            if not name.startswith("."):
                leaving = self.path / f".{name}.leaving"
                os.replace(folder, leaving)
                folder = leaving
            shutil.rmtree(folder)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        with source.open("rb") as there, target.open("wb") as here:
            shutil.copyfileobj(there, here)
            here.flush()
            os.fsync(here.fileno())


def _damaged(folder: Path, got: str) -> LedgerError:
    return LedgerError(
        f"model state {folder} is damaged",
        expected="the model that its name and the ledger say",
        got=got,
        fix="It is not used. Restore that folder from a backup.",
    )
