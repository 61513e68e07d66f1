"""Ctrl-C is told from callbacks that end a fit, and does what it did before."""

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from sklearn_soapbpnn.training._interrupts import note_interrupts


@pytest.fixture
def set_handler():
    before = signal.getsignal(signal.SIGINT)
    yield lambda handler: signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGINT, before)


def press():
    signal.raise_signal(signal.SIGINT)


def test_only_the_signal_is_noted():
    with pytest.raises(KeyboardInterrupt), note_interrupts() as noted:
        raise KeyboardInterrupt
    assert not noted
    with pytest.raises(KeyboardInterrupt), note_interrupts() as noted:
        press()
    assert len(noted) == 1


def test_the_handler_of_the_program_is_called_and_put_back(set_handler):
    called = []

    def handle(number, frame):
        called.append(number)

    set_handler(handle)
    with note_interrupts() as noted:
        press()
        with note_interrupts():
            press()
    assert called == noted == [signal.SIGINT] * 2
    assert signal.getsignal(signal.SIGINT) is handle
    with pytest.raises(ValueError, match="of the fit"), note_interrupts():
        raise ValueError("of the fit")
    assert signal.getsignal(signal.SIGINT) is handle


def test_an_ignored_signal_stays_ignored(set_handler):
    set_handler(signal.SIG_IGN)
    with note_interrupts() as noted:
        press()
    assert not noted
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_other_threads_leave_the_handler_alone():
    """Python lets only the main thread set one."""

    def find():
        with note_interrupts():
            return signal.getsignal(signal.SIGINT)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(find).result() is signal.getsignal(signal.SIGINT)
