"""Requests to stop. All ranks stop after the same iteration.

========================  ==========================================  =========================
request                   what a training does                        exit code
========================  ==========================================  =========================
a time limit              ends normally                               0
SIGTERM or SIGUSR1        saves and stops: "run me again"             75 (``EX_TEMPFAIL``)
Ctrl-C                    saves and stops                             130
Ctrl-C again              stops at once                               130
========================  ==========================================  =========================

Schedulers send SIGTERM before they take a node away, and SIGUSR1 (``--signal=USR1@120``) before a job's time is up.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum

import torch
from torch import distributed

logger = logging.getLogger(__name__)
REQUEUE_EXIT_CODE = 75
REQUEUE_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Stop(IntEnum):
    """Kinds of requests to stop. The highest of several counts."""

    NONE = 0
    TIME_LIMIT = 1
    REQUEUE = 2
    INTERRUPT = 3


class Requeue(SystemExit):
    """Ends the program with exit code 75. Everything is saved, and the same command continues."""

    def __init__(self) -> None:
        super().__init__(REQUEUE_EXIT_CODE)


class StopRequests:
    """Collects the requests of this process and agrees on one with the other ranks."""

    def __init__(self) -> None:
        self.asked = Stop.NONE
        self._group: distributed.ProcessGroup | None = None

    def ask(self, stop: Stop) -> None:
        self.asked = max(self.asked, stop)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """A context in which signals are requests. All ranks must enter it."""
        self.asked = Stop.NONE
        if _several_ranks() and self._group is None:
            # on the CPU, so that agreement does not wait for the device
            gloo = distributed.get_backend() == "gloo"
            self._group = distributed.group.WORLD if gloo else distributed.new_group(backend="gloo")
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, *REQUEUE_SIGNALS)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: object) -> None:
        if number == signal.SIGINT and self.asked == Stop.INTERRUPT:
            raise KeyboardInterrupt
        again = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
        logger.warning(f"{signal.Signals(number).name}: stopping after this step{again}")
        self.ask(Stop.INTERRUPT if number == signal.SIGINT else Stop.REQUEUE)

    def agreed(self) -> Stop:
        """The highest request of all ranks. All ranks must call it."""
        if self._group is None:
            return self.asked
        highest = torch.tensor(int(self.asked))
        distributed.all_reduce(highest, distributed.ReduceOp.MAX, group=self._group)
        return Stop(int(highest))

    def leave_together(self) -> None:
        """Waits until all ranks have called it.

        After it the program ends and ignores the signals of the scheduler. srun sends them when the first rank has
        left, and they would kill an ending Python before it returns its exit code.
        """
        if self._group is not None:
            distributed.barrier(group=self._group)
        if self.asked != Stop.NONE and threading.current_thread() is threading.main_thread():
            for number in REQUEUE_SIGNALS:
                signal.signal(number, signal.SIG_IGN)


@contextmanager
def first_interrupt(ask: Callable[[], None], message: str) -> Iterator[None]:
    """A context in which the first Ctrl-C calls ``ask`` and logs the message; the second raises ``KeyboardInterrupt``.

    It serves work with a partial result, such as sampling. Only the main thread receives signals; in another thread it
    changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupted = False

    def handle(_number: int, _frame: object) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True
        logger.warning(f"{message}; Ctrl-C again stops at once")
        ask()

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _several_ranks() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def requeue_when_asked() -> None:
    """Lets SIGTERM and SIGUSR1 end the program with exit code 75, before a training runs and has something to lose."""

    def leave(_number: int, _frame: object) -> None:
        raise Requeue

    if threading.current_thread() is threading.main_thread():
        for number in REQUEUE_SIGNALS:
            signal.signal(number, leave)
