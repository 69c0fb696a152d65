"""Ctrl-C that waits for a safe point."""

from __future__ import annotations

import signal
import threading

import pytest

from stakes.interrupts import deferred


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_waits_and_the_second_interrupts(number):
    with deferred() as interrupted:
        assert not interrupted()
        signal.raise_signal(number)
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_handlers_are_put_back():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.raises(RuntimeError), deferred():  # noqa: PT012
        assert signal.getsignal(signal.SIGINT) is not before[signal.SIGINT]
        raise RuntimeError
    assert {number: signal.getsignal(number) for number in before} == before


def test_a_handler_from_outside_python_becomes_the_default(monkeypatch):
    real, set_to = signal.signal, []

    def fake(number, handler):
        set_to.append((number, handler))
        earlier = real(number, handler)
        return None if number == signal.SIGTERM else earlier

    earlier = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(signal, "signal", fake)
    try:
        with deferred():
            pass
    finally:
        real(signal.SIGTERM, earlier)
    assert set_to[-1] == (signal.SIGTERM, signal.SIG_DFL)


def test_nested_ones_keep_apart():
    with deferred() as outer:
        with deferred() as inner:
            signal.raise_signal(signal.SIGINT)
            assert inner()
        assert not outer()


def test_other_threads_are_never_interrupted():
    answers = []

    def work():
        with deferred() as interrupted:
            answers.append(interrupted())

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [False]
    assert signal.getsignal(signal.SIGINT) is before
