from __future__ import annotations

import threading

from serve_core.context import CancelFlag


def test_it_is_told_once_and_for_good() -> None:
    flag = CancelFlag()
    assert not flag.is_set()
    assert not flag.wait(0.0)
    flag.set()
    assert flag.is_set()
    assert flag.wait()


def test_every_thread_that_waits_is_woken() -> None:
    flag = CancelFlag()
    waiting = threading.Barrier(6)
    woken: list[bool] = []

    def wait() -> None:
        waiting.wait()
        woken.append(flag.wait(20.0))

    threads = [threading.Thread(target=wait) for _ in range(5)]
    for thread in threads:
        thread.start()
    waiting.wait()
    assert not flag.wait(0.0)
    flag.set()
    for thread in threads:
        thread.join(20.0)
    assert woken == [True] * 5
