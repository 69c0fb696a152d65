"""Worker processes that carry out tasks; one that dies costs its cell, not the bench."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from stakes.bench.board import Board
from stakes.bench.folder import BenchFolder
from stakes.bench.schedule import Schedule, Task
from stakes.bench.workshop import Order, Workshop
from stakes.errors import StakesError
from stakes.interrupts import deferred

_TELL_SECONDS = 0.5


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    task: Task | None = None
    ready: bool = False
    asked: bool = False


def work_with(order: Order, schedule: Schedule, board: Board, *, jobs: int, threads: int) -> None:
    """Carry out a schedule with ``jobs`` processes of ``threads`` threads each.

    Ctrl-C (or SIGTERM) asks every worker to stop at its next safe point, where it saves; a second one ends
    them at once.

    Raises:
        KeyboardInterrupt: after all workers have stopped.
        OutputError: a worker cannot write.
        ConfigError: the code was changed meanwhile.
    """
    crew = _Crew(order, schedule, board, threads)
    try:
        with deferred() as interrupted:
            for _ in range(jobs):
                crew.hire()
            while not schedule.over and not crew.fatal:
                crew.hand_out()
                crew.listen(0.2)
                if interrupted():
                    break
            crew.dismiss()
            if interrupted():
                raise KeyboardInterrupt
    finally:
        crew.end()
    if crew.fatal:
        raise crew.fatal


class _Crew:
    """The workers, and what they say."""

    def __init__(self, order: Order, schedule: Schedule, board: Board, threads: int) -> None:
        self.order, self.schedule, self.board, self.threads = order, schedule, board, threads
        self.workers: list[_Worker] = []
        self.fatal: StakesError | None = None

    def hire(self) -> None:
        """Start a worker. Spawned, not forked: threads and CUDA do not survive a fork."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self.order, self.threads), daemon=True)
        with _without_interrupts():
            process.start()
        theirs.close()
        self.workers.append(_Worker(process, ours))

    def hand_out(self) -> None:
        """Give idle workers what is ready to be done."""
        for worker in self.workers:
            if worker.task is None and worker.ready and (task := self.schedule.next()) is not None:
                worker.task = task
                self.board.started(task)
                worker.pipe.send(task)

    def listen(self, seconds: float) -> None:
        """Take in what workers say within so many seconds."""
        by_pipe = {worker.pipe: worker for worker in self.workers}
        for pipe in wait(list(by_pipe), seconds):
            worker = by_pipe[pipe]  # type: ignore[index]
            try:
                self._hear(worker, worker.pipe.recv())
            except (EOFError, OSError):
                self._lost(worker)

    def _hear(self, worker: _Worker, said: tuple[Any, ...]) -> None:
        word, *rest = said
        if word == "ready":
            worker.ready = True
        elif word == "fatal":
            self.fatal = rest[0]
        elif word == "progress" and worker.task is not None:
            self.board.progress(worker.task, *rest)
        elif word == "ended" and worker.task is not None:
            task, worker.task = worker.task, None
            self.schedule.end(task)
            self.board.ended(task, rest[0])

    def _lost(self, worker: _Worker) -> None:
        """A worker ended without a word: its cell failed, and another worker takes its place."""
        self.workers.remove(worker)
        worker.process.join()
        worker.pipe.close()
        task = worker.task
        if worker.asked:
            return
        if not worker.ready:
            code = worker.process.exitcode
            self.fatal = self.fatal or StakesError(
                "a worker process could not start", got=f"exit code {code}"
            )
            return
        if task is not None:
            message = f"the worker ended with exit code {worker.process.exitcode}; out of memory?"
            if task.kind == "cell":
                BenchFolder(self.order.out).fail(task.name, "WorkerLost", message)
            self.schedule.end(task)
            self.board.ended(task, message)
        if self.schedule.tasks:
            self.hire()

    def dismiss(self) -> None:
        """Let idle workers go, and ask the busy ones to stop at a safe point; wait for them."""
        for worker in self.workers:
            worker.asked = True
            # One that has just ended by itself cannot be told.
            with contextlib.suppress(ProcessLookupError, BrokenPipeError):
                if not worker.ready:
                    worker.process.terminate()
                    continue
                if worker.task is not None and worker.process.pid is not None:
                    os.kill(worker.process.pid, signal.SIGINT)
                # Busy ones too: one that the signal reaches after its last safe point waits for another task.
                worker.pipe.send(None)
        while self.workers:
            self.listen(1.0)

    def end(self) -> None:
        """Nobody is left behind."""
        for worker in self.workers:
            worker.process.kill()
            worker.process.join()


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """A process started inside begins with Ctrl-C held back, so that none hits it amid its imports."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, order: Order, threads: int) -> None:
    """A worker's life."""
    # Ctrl-C in a terminal goes to its whole group; ours comes from the bench alone, once.
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        import torch

        torch.set_num_threads(threads)
        workshop = Workshop(order)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        pipe.send(("ready",))
        while (task := pipe.recv()) is not None:
            pipe.send(("ended", workshop.attempt(task, _Telling(pipe))))
    except StakesError as error:
        pipe.send(("fatal", error))
    except (KeyboardInterrupt, EOFError, BrokenPipeError):
        return


class _Telling:
    """Progress sent to the bench, not too often."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe, self.last = pipe, 0.0

    def __call__(self, phase: str, done: int, total: int, **figures: float) -> None:
        now = time.monotonic()
        if now - self.last >= _TELL_SECONDS:
            self.last = now
            self.pipe.send(("progress", phase, done, total))


def end_with_parent() -> None:
    """A bench that is killed takes its workers along, so that the next one has the folder to itself."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
