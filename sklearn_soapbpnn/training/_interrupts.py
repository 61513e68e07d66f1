"""Distinguish Ctrl-C from other events that end a fit."""

import signal
import threading
from contextlib import contextmanager


@contextmanager
def note_interrupts():
    """Yield a list that gets an entry for every Ctrl-C; the previous handler is still called.

    Ctrl-C raises KeyboardInterrupt, but skorch callbacks that end a fit raise it, too. Only the
    signal distinguishes the two.
    """
    noted = []
    before = signal.getsignal(signal.SIGINT)
    # only the main thread receives signals, and SIGINT may be ignored or handled outside Python
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield noted
        return

    def note(number, frame):
        noted.append(number)
        return before(number, frame)

    try:
        signal.signal(signal.SIGINT, note)
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)
