"""The folder of a ledger: where its parts are, how it is made, and who may work in it."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from stakes import __version__
from stakes.files import sweep, writing
from stakes.ledger.errors import LedgerError
from stakes.ledger.events import Created
from stakes.ledger.requester import make_key
from stakes.ledger.states import ModelStates, config_hash
from stakes.ledger.store import Clock, EventStore, utc_now
from stakes.ledger.view import View, replay
from stakes.locks import alone
from stakes.models.checkpoint import load_checkpoint
from stakes.models.classifier import Classifier

Factory = Callable[[], nn.Module]


@dataclass(frozen=True)
class Ledger:
    """A ledger on disk. It holds no state in memory: every question is answered from the file.

    ``ledger.sqlite`` the events, ``ledger.key`` the key of the hashed requesters, ``models/<hash>/`` states of the
    model, ``runs/<number>/`` run folders, ``images/`` where images are kept, ``cache/`` probes and predictions while
    a run is at work. The folder is readable by its owner alone.
    """

    path: Path
    clock: Clock = utc_now
    factory: Factory | None = None

    @property
    def store(self) -> EventStore:
        """The events."""
        return EventStore(self.path / "ledger.sqlite", self.clock)

    @property
    def states(self) -> ModelStates:
        """The states of the model."""
        return ModelStates(self.path / "models", self.factory)

    @property
    def key(self) -> Path:
        """The key of the hashed requesters."""
        return self.path / "ledger.key"

    @property
    def images(self) -> Path:
        """Images of requests, where they are kept."""
        return self.path / "images"

    @property
    def cache(self) -> Path:
        """Probes and predictions of the runs at work; probes look like the images, so they go when a batch ends."""
        return self.path / "cache"

    def run(self, number: int) -> Path:
        """The folder of a run."""
        return self.path / "runs" / f"{number:06d}"

    def view(self) -> View:
        """All that the events amount to, after the checks of integrity.

        Raises:
            LedgerError: there is no ledger, it is damaged, or it is older than its run folders.
        """
        view = replay(self.store.events(), str(self.path))
        runs = self.path / "runs"
        numbers = (
            [int(entry.name) for entry in runs.iterdir() if entry.name.isdigit()] if runs.is_dir() else []
        )
        # A run folder is made after its event: one without means that the newest events are gone.
        if numbers and max(numbers) > len(view.attempts):
            raise LedgerError(
                f"{self.path / 'ledger.sqlite'} lacks its newest events",
                expected=f"run {max(numbers)}, whose folder is in {runs}",
                got=f"{len(view.attempts)} runs",
                fix="It was cut short or is an older copy. Restore the newest one.",
            )
        return view

    def current(self, view: View) -> Classifier:
        """The current model, checked against its hash."""
        return self.states.load(view.current, view.configs[view.current])

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep a second run or pruning out; the system lifts the lock when the process ends, however it ends.

        Raises:
            RunFolderError: another process is at work here.
            LedgerError: there is no ledger.
        """
        if not (self.path / "ledger.sqlite").is_file():
            self.store.events()  # says that there is no ledger
        fix = "Wait for it. Requests can be added meanwhile."
        with alone(self.path / "ledger.lock", what=f"ledger {self.path}", fix=fix):
            sweep(self.path / "models")
            yield


def create_ledger(
    path: str | Path,
    model: Classifier | str | Path,
    *,
    data: str | None = None,
    keep_images: bool = False,
    allow_pickle: bool = False,
    factory: Factory | None = None,
    clock: Clock = utc_now,
) -> Ledger:
    """Make a ledger for a model. It appears whole or not at all.

    Args:
        path: a new or empty folder.
        model: the deployed classifier, or its checkpoint.
        data: where its training images are, as for `open_source`; commands may name another place.
        keep_images: keep the images to forget inside the ledger, so that it can verify without the data. Without it
            only their hashes are kept.
        factory: makes an empty network of the user's own class, where a checkpoint cannot say what it is.
        clock: gives the time that events are dated with.

    Raises:
        LedgerError: the folder is not empty.
        ModelError: the model cannot be read or saved.

    Example:
        >>> ledger = create_ledger("ledger", "checkpoints/mine", data="my-data")  # doctest: +SKIP
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise LedgerError(
            f"{path}", expected="a new or empty folder", got="one with files", fix="Choose another."
        )
    classifier = (
        model
        if isinstance(model, Classifier)
        else load_checkpoint(model, allow_pickle=allow_pickle, factory=factory)
    )
    with writing(path) as folder:
        folder.mkdir(mode=0o700)
        made = Ledger(folder, clock, factory)
        state = made.states.put(classifier)
        check = make_key(made.key)
        if keep_images:
            made.images.mkdir(mode=0o700)
        body = Created(
            ledger=secrets.token_hex(8),
            model=state,
            config=config_hash(classifier),
            class_names=classifier.class_names,
            input_size=classifier.input_size,
            data=data,
            keeps_images=keep_images,
            key_check=check,
            version=__version__,
        )
        made.store.create()
        made.store.append(Created, lambda _: body)
    return Ledger(path, clock, factory)


def open_ledger(path: str | Path, *, factory: Factory | None = None, clock: Clock = utc_now) -> Ledger:
    """Open a ledger and check it.

    Raises:
        LedgerError: there is none, or it is damaged.

    Example:
        >>> open_ledger("ledger").view().current  # doctest: +SKIP
    """
    ledger = Ledger(Path(path), clock, factory)
    ledger.view()
    return ledger
