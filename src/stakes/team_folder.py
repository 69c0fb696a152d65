"""A run folder that many processes work in together: the main process writes, and all read the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from stakes.anchors.anchors import Anchors
from stakes.files import read_tensors
from stakes.launcher import launched
from stakes.processes import current
from stakes.records import Record
from stakes.runs import RunFolder


def run_folder(path: Path) -> RunFolder:
    """The folder of a run, for as many processes as a launcher started."""
    return TeamFolder(path) if launched() > 1 else RunFolder(path)


class TeamFolder(RunFolder):
    """What `RunFolder` does, once: in the main process. What is read there, all processes get.

    All of them make every call but ``append_history`` and ``keep_costs``, which do not wait for anybody.
    The folder has to lie where every process can read the deployed model: on several machines, on a shared drive.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        # Not super(): what one of its methods calls of the others must not wait for anybody.
        self._own = RunFolder(path)

    def claim(self, request: Mapping[str, Any]) -> Record | None:
        """See `RunFolder.claim`; what it refuses is refused everywhere."""
        return current().from_main(lambda: self._own.claim(request))

    def refuse_begun(self) -> None:
        """See `RunFolder.refuse_begun`; what it refuses is refused everywhere."""
        current().from_main(lambda: self._own.refuse_begun())

    @contextmanager
    def alone(self) -> Iterator[None]:
        """See `RunFolder.alone`; the main process holds the lock for all."""
        with ExitStack() as stack:
            current().only_main(lambda: stack.enter_context(self._own.alone()))
            yield

    def load(self) -> dict[str, Any] | None:
        """See `RunFolder.load`."""
        return current().from_main(lambda: self._own.load())

    def save(self, state: Mapping[str, Any]) -> None:
        """See `RunFolder.save`."""
        current().only_main(lambda: self._own.save(state))

    def remember(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """See `RunFolder.remember`; what has to be made is made by all together."""
        kept = current().from_main(lambda: read_tensors(self.state / f"{name}.safetensors"))
        if kept is not None:
            return kept
        made = {key: value.detach().cpu().contiguous() for key, value in make().items()}
        current().only_main(lambda: self._own.remember(name, lambda: made))
        return made

    def keep_costs(self, totals: Mapping[str, Mapping[str, float]]) -> None:
        """See `RunFolder.keep_costs`."""
        if current().main:
            self._own.keep_costs(totals)

    def costs(self) -> dict[str, dict[str, float]]:
        """See `RunFolder.costs`."""
        return current().from_main(lambda: self._own.costs())

    def keep_anchors(self, anchors: Anchors) -> None:
        """See `RunFolder.keep_anchors`."""
        current().only_main(lambda: self._own.keep_anchors(anchors))

    def rewind_snapshots(self, step: int) -> None:
        """See `RunFolder.rewind_snapshots`."""
        current().only_main(lambda: self._own.rewind_snapshots(step))

    def keep_snapshot(self, step: int, state: Mapping[str, Tensor]) -> None:
        """See `RunFolder.keep_snapshot`."""
        current().only_main(lambda: self._own.keep_snapshot(step, state))

    def rewind_history(self, step: int) -> None:
        """See `RunFolder.rewind_history`."""
        current().only_main(lambda: self._own.rewind_history(step))

    def append_history(self, row: Mapping[str, float]) -> None:
        """See `RunFolder.append_history`."""
        if current().main:
            self._own.append_history(row)

    def history(self) -> list[dict[str, float]]:
        """See `RunFolder.history`."""
        return current().from_main(lambda: self._own.history())

    def finish(self, record: Record) -> None:
        """See `RunFolder.finish`."""
        current().only_main(lambda: self._own.finish(record))
