"""Signals that wait."""

from __future__ import annotations

import os
import signal
import threading
import time

from nnunet_medseg.signals import handled, signals_later


def test_a_signal_that_another_thread_takes_waits_too():
    heard = []
    # Threads let signals through that the main thread has masked.
    thread = threading.Thread(target=time.sleep, args=(0.5,))
    thread.start()
    with handled(("SIGTERM",), lambda number, _: heard.append(number)):
        with signals_later():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
            assert heard == []
        assert heard == [signal.SIGTERM]
    thread.join()
