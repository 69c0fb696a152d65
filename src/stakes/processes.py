"""The processes that work on one request together, as a launcher started them; without one there is a single one.

``accelerate launch`` and ``torchrun`` start the same program many times and tell each copy, in its environment, which
one it is. `start` joins them through ``accelerate``; `current` gives the joined processes from then on. Where nothing
was launched, `current` is one process for which every call here is free and changes nothing.

All processes call the same functions in the same order; a call that only some of them reach waits for ever.
"""

from __future__ import annotations

import atexit
import datetime
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from stakes.config import Device, Precision
from stakes.errors import ConfigError
from stakes.launcher import launched

T = TypeVar("T")

# One process may hash or decode a large data set while the others wait; ten minutes, the default, are too few.
_PATIENCE = datetime.timedelta(hours=24)


@dataclass(frozen=True)
class Processes:
    """One of ``count`` processes: the one with number ``index``, computing on ``device``.

    Example:
        >>> alone = Processes()
        >>> alone.main, alone.sum(3), alone.from_main(lambda: "made once")
        (True, 3, 'made once')
    """

    index: int = 0
    count: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - a value, never changed

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.index == 0

    def wait(self) -> None:
        """Go on once every process is here."""
        if self.count > 1:
            _state().wait_for_everyone()

    def from_main(self, make: Callable[[], T]) -> T:
        """What ``make`` gives in the main process, in all of them; what it raises there is raised in all."""
        if self.count == 1:
            return make()
        from accelerate.utils import broadcast_object_list

        said: list[Any] = [None]
        if self.main:
            try:
                said = [(True, make())]
            except BaseException as error:  # noqa: BLE001 - raised again below, here and everywhere
                said = [(False, error)]
        broadcast_object_list(said)
        good, value = said[0]
        if not good:
            if not self.main:
                value.told_by_main = True
            raise value
        return value  # type: ignore[no-any-return]

    def only_main(self, do: Callable[[], Any]) -> None:
        """Do it in the main process; the others wait, and fail where it fails."""

        def done() -> None:
            do()

        self.from_main(done)

    def agree(self, answer: bool, *, any_of: bool = False) -> bool:
        """One word for all: what the main process says, or with ``any_of`` whether any says yes."""
        return self.sum(answer and (any_of or self.main)) > 0

    def sum(self, value: int) -> int:
        """The sum of everybody's number."""
        return value if self.count == 1 else int(self.reduce(torch.tensor([value]))[0])

    def reduce(self, values: Tensor) -> Tensor:
        """The elementwise sum of everybody's tensor, the same bytes in every process; on the device it came from."""
        if self.count == 1:
            return values
        from accelerate.utils import reduce

        summed: Tensor = reduce(values.to(self.device), reduction="sum")
        return summed.to(values.device)

    def share(self, total: int) -> slice:
        """This process's part of ``total`` rows, cut as evenly as can be, the longer parts first."""
        size, longer = divmod(total, self.count)
        start = self.index * size + min(self.index, longer)
        return slice(start, start + size + (self.index < longer))

    def gather(self, rows: Tensor, total: int) -> Tensor:
        """All ``total`` rows, from the parts that `share` gave, in order."""
        if self.count == 1:
            return rows
        from accelerate.utils import gather

        longest = -(-total // self.count)
        filled = rows.new_zeros((longest, *rows.shape[1:]))
        filled[: len(rows)] = rows
        everyone: Tensor = gather(filled.to(self.device))
        lengths = [_length(total, self.count, at) for at in range(self.count)]
        parts = [part[:n] for part, n in zip(everyone.split(longest), lengths, strict=True)]
        return torch.cat(parts).to(rows.device)


def _length(total: int, count: int, index: int) -> int:
    size, longer = divmod(total, count)
    return size + (index < longer)


_ALONE = Processes()
_joined: Processes | None = None
_spreading: list[bool] = [False]


def launched_on_cpu() -> bool:
    """Whether ``accelerate launch --cpu`` was asked for."""
    return _true("ACCELERATE_USE_CPU")


def current() -> Processes:
    """The processes that were joined; one alone where none were."""
    return _joined or _ALONE


def start(device: Device) -> Processes:
    """Join what a launcher started, and place this process on its device; calling again changes nothing.

    Raises:
        ConfigError: a device that many processes cannot share.
    """
    global _joined
    if launched() == 1:
        return _ALONE
    if device == "mps":
        raise ConfigError(
            "--device mps", expected="one process, or cpu or cuda", got=f"{launched()} processes"
        )
    cpu = device == "cpu" or not torch.cuda.is_available() or launched_on_cpu()
    if device == "cuda" and cpu:
        raise ConfigError("--device", expected="cpu or auto", got="cuda, which is not there")
    if _joined is None:
        from accelerate import PartialState

        state = PartialState(cpu=cpu, timeout=_PATIENCE)
        _joined = Processes(state.process_index, state.num_processes, state.device)
        atexit.register(_leave)
    if (_joined.device.type == "cpu") != cpu:
        raise ConfigError("--device", expected=f"{_joined.device.type}, as before", got=device)
    return _joined


def check_precision(precision: Precision) -> None:
    """Refuse a launcher that asks for another precision than the run: it would not stand in the record.

    Raises:
        ConfigError: ``accelerate launch --mixed_precision`` says otherwise.
    """
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if asked not in ("no", precision):
        raise ConfigError(
            "precision",
            expected=f"{precision}, that of the run",
            got=f"{asked} from the launcher",
            fix=f"Give --precision {asked} to stakes, so that it stands in the record.",
        )


@contextmanager
def spread(on: bool = True) -> Iterator[Processes]:
    """Inside, network passes of all processes' common batches are shared among them; see `stakes.spread`."""
    before, _spreading[0] = _spreading[0], on and current().count > 1
    try:
        yield current()
    finally:
        _spreading[0] = before


def spreading() -> Processes | None:
    """The processes that share network passes now, or None."""
    return current() if _spreading[0] else None


def _state() -> Any:
    from accelerate import PartialState

    return PartialState()


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _true(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes")
