"""The tasks of a bench on a Ray cluster: one that is there, or one of this machine, started for the occasion."""

from __future__ import annotations

import contextlib
import math
import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from stakes.bench.board import Board
from stakes.bench.folder import BenchFolder
from stakes.bench.schedule import Schedule, Task
from stakes.bench.workshop import Order, Workshop
from stakes.errors import ConfigError, MissingExtraError, NetworkError, StakesError
from stakes.interrupts import deferred

_TOLD_SECONDS = 0.2
_STORE_BYTES = 100 * 2**20  # tasks send a few kilobytes; the default is a third of the memory


@dataclass(frozen=True)
class Cluster:
    """Where cells run, and what each takes.

    Attributes:
        address: of a cluster (``ray://HOST:PORT``, ``HOST:PORT``, or ``auto`` on one of its nodes); None starts one on
            this machine alone, reachable from this machine alone, and ends it afterwards.
        cpus, gpus: what a task takes; a whole number of CPUs is also its number of threads.
        retries: how often a task is tried again after its worker or node died.
    """

    address: str | None = None
    cpus: float = 1
    gpus: float = 0
    retries: int = 3

    def __post_init__(self) -> None:
        if self.cpus <= 0 or self.gpus < 0 or self.retries < 0:
            raise ConfigError(
                "a cell on the cluster",
                expected="CPUs above 0, GPUs and retries of 0 or more",
                got=f"{self.cpus}, {self.gpus}, {self.retries}",
            )

    @property
    def threads(self) -> int:
        """Threads of torch in a task."""
        return max(1, int(self.cpus))


def work_on(order: Order, schedule: Schedule, board: Board, *, cluster: Cluster, jobs: int) -> None:
    """Carry out a schedule on a Ray cluster.

    A task whose worker dies is submitted again, up to ``retries`` times: the cell resumes from its last saved state,
    and a finished cell is never run again, since its record is looked for first. Workers write into the folder of the
    bench, which every node sees under the same path, as it sees data, models, cache and plugins.
    Ctrl-C asks every worker to stop at its next safe point, where it saves; a second one does not wait for them.

    Args:
        jobs: tasks at a time on a cluster started here; elsewhere as many as fit.

    Raises:
        MissingExtraError: Ray is not installed.
        NetworkError: no cluster at the address.
        ConfigError: a task needs more than the cluster has; or the code was changed meanwhile.
        KeyboardInterrupt: after all workers have stopped.
        OutputError: a worker cannot write.
    """
    with _joined(cluster, jobs) as ray, deferred() as interrupted:
        crew = _Crew(ray, order, schedule, board, cluster)
        while not schedule.over and not crew.fatal and not interrupted():
            crew.hand_out()
            crew.listen()
        if interrupted() or crew.fatal:
            crew.dismiss()
        if interrupted():
            raise KeyboardInterrupt
    if crew.fatal:
        raise crew.fatal


@contextlib.contextmanager
def _joined(cluster: Cluster, jobs: int) -> Iterator[Any]:
    """Ray, connected. It reports nothing to its makers, and opens no dashboard."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
    except ImportError:
        raise MissingExtraError(
            "--engine ray",
            expected="the library ray",
            got="none",
            fix='Install it: pip install "stakes[ray]".',
        ) from None
    if ray.is_initialized():
        yield ray
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if cluster.address is not None:
            ray.init(address=cluster.address, **quiet)
        else:
            ray.init(
                address="local",
                num_cpus=math.ceil(jobs * cluster.cpus),
                include_dashboard=False,
                object_store_memory=_STORE_BYTES,
                _node_ip_address="127.0.0.1",
                **quiet,
            )
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise NetworkError(
            f"Ray cluster {cluster.address or 'on this machine'}",
            expected="one that answers",
            got=(str(error).splitlines() or [type(error).__name__])[0],
            fix="Start it with ray start --head, or leave --address out.",
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


@dataclass
class _Try:
    task: Task
    number: int = 1


class _Crew:
    """Tasks under way."""

    def __init__(self, ray: Any, order: Order, schedule: Schedule, board: Board, cluster: Cluster) -> None:
        self.ray, self.schedule, self.board, self.cluster = ray, schedule, board, cluster
        self.folder = BenchFolder(order.out)
        self.tries: dict[Any, _Try] = {}
        self.fatal: StakesError | None = None
        # Retries are ours: Ray's own would not be seen, nor written down when they are spent.
        self._remote = ray.remote(num_cpus=cluster.cpus, num_gpus=cluster.gpus, max_retries=0)(_carry_out)
        self._order = ray.put(order)

    def hand_out(self) -> None:
        """Submit what is ready to be done and has room."""
        while len(self.tries) < self._room() and (task := self.schedule.next()) is not None:
            self.board.started(task)
            self._submit(_Try(task))

    def listen(self) -> None:
        """Take in which tasks have ended."""
        if not self.tries:
            return
        ended, _ = self.ray.wait(list(self.tries), num_returns=1, timeout=_TOLD_SECONDS)
        for reference in ended:
            self._ended(self.tries.pop(reference), reference)

    def dismiss(self) -> None:
        """Ask running tasks to stop at a safe point, and wait for them."""
        for reference in self.tries:
            self.ray.cancel(reference, force=False)
        while self.tries:
            ended, _ = self.ray.wait(list(self.tries), num_returns=1, timeout=_TOLD_SECONDS)
            for reference in ended:
                del self.tries[reference]

    def _room(self) -> int:
        have = self.ray.cluster_resources()
        room = have.get("CPU", 0.0) / self.cluster.cpus
        if self.cluster.gpus:
            room = min(room, have.get("GPU", 0.0) / self.cluster.gpus)
        if room < 1 and not self.tries:
            raise ConfigError(
                "a cell on the cluster",
                expected=f"at most {have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs, all there are",
                got=f"{self.cluster.cpus:g} CPUs and {self.cluster.gpus:g} GPUs",
                fix="Lower --cpus-per-cell or --gpus-per-cell.",
            )
        return int(room)

    def _submit(self, one: _Try) -> None:
        self.tries[self._remote.remote(self._order, one.task, self.cluster.threads)] = one

    def _ended(self, one: _Try, reference: Any) -> None:
        exceptions = self.ray.exceptions
        try:
            error = self.ray.get(reference)
        except exceptions.RayTaskError as raised:
            cause = raised.cause
            self.fatal = (
                cause if isinstance(cause, StakesError) else StakesError("a task failed", got=str(cause))
            )
            return
        except exceptions.RayError as lost:
            error = self._lost(one, type(lost).__name__)
            if error is None:
                return
        self.schedule.end(one.task)
        self.board.ended(one.task, error)

    def _lost(self, one: _Try, why: str) -> str | None:
        """A worker or node ended without a word: once more, or why not."""
        if one.number <= self.cluster.retries:
            self._submit(_Try(one.task, one.number + 1))
            return None
        message = f"its worker died {one.number} times ({why}); out of memory?"
        if one.task.kind == "cell":
            self.folder.fail(one.task.name, "WorkerLost", message)
        return message


_held: dict[bytes, Workshop] = {}


def _carry_out(order: Order, task: Task, threads: int) -> str | None:
    """One task in a worker, which keeps models and data open for the next one."""
    import torch

    torch.set_num_threads(threads)
    key = pickle.dumps(order)
    if key not in _held:
        _held.clear()
        _held[key] = Workshop(order)
    return _held[key].attempt(task)
