"""Three stages at once: reading, computing and writing, with bounded queues between them.

Reading and writing run in threads of their own, computing in the caller's, so that whatever context the caller has set
up (a device, a kernel backend) applies to it. Whichever stage fails, the others stop, and its exception is raised.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")

_POLL_SECONDS = 0.5  # a wait without a limit cannot be interrupted by Ctrl-C on Windows


class AbortedError(Exception):
    """The other end of a channel has stopped."""


class Channel(Generic[T]):
    """A queue between two threads that is bounded, can end, and can be torn down from any side.

    Args:
        capacity: Items it holds before :meth:`put` waits.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: deque[T] = deque()
        self._closed = False
        self._aborted = False
        self._changed = threading.Condition()

    def put(self, item: T) -> None:
        """Append an item, waiting for room.

        Raises:
            AbortedError: The channel was torn down.
        """
        with self._changed:
            while len(self._items) >= self._capacity and not self._aborted:
                self._changed.wait(_POLL_SECONDS)
            if self._aborted:
                raise AbortedError
            self._items.append(item)
            self._changed.notify_all()

    def close(self) -> None:
        """Say that no item will follow."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def abort(self) -> None:
        """Wake everyone up and refuse all service."""
        with self._changed:
            self._aborted = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        """Take items until the channel is closed and empty.

        Raises:
            AbortedError: The channel was torn down.
        """
        while True:
            with self._changed:
                while not self._items and not self._closed and not self._aborted:
                    self._changed.wait(_POLL_SECONDS)
                if self._aborted:
                    raise AbortedError
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item


def run_pipeline(
    source: Iterable[A],
    compute: Callable[[Iterable[A]], Iterable[B]],
    write: Callable[[B], None],
    *,
    read_ahead: int,
    write_behind: int,
) -> None:
    """Feed ``source`` through ``compute`` to ``write``, and return when all is written.

    Args:
        source: Iterated in the reading thread.
        compute: Called in this thread with an iterable of what was read; its result is iterated here.
        write: Called in the writing thread with each result, in order.
        read_ahead: Items that may wait between reading and computing.
        write_behind: Items that may wait between computing and writing.

    Raises:
        BaseException: Whatever the first stage to fail raised. Both threads have ended by then.
    """
    ahead: Channel[A] = Channel(read_ahead)
    behind: Channel[B] = Channel(write_behind)
    failures: list[BaseException] = []

    def fail(error: BaseException) -> None:
        failures.append(error)
        ahead.abort()
        behind.abort()

    def read() -> None:
        try:
            for item in source:
                ahead.put(item)
            ahead.close()
        except AbortedError:
            pass
        except BaseException as error:
            fail(error)

    def write_all() -> None:
        try:
            for item in behind:
                write(item)
        except AbortedError:
            pass
        except BaseException as error:
            fail(error)

    threads = [threading.Thread(target=target, name=f"vsr-{target.__name__}") for target in (read, write_all)]
    for thread in threads:
        thread.start()
    try:
        for result in compute(ahead):
            behind.put(result)
        behind.close()
    except AbortedError:
        pass
    except BaseException as error:
        fail(error)
    finally:
        _join(threads, fail)
    if failures:
        raise failures[0]


def _join(threads: list[threading.Thread], fail: Callable[[BaseException], None]) -> None:
    """Wait for the threads; a Ctrl-C meanwhile stops them too."""
    for thread in threads:
        while thread.is_alive():
            try:
                thread.join(_POLL_SECONDS)
            except KeyboardInterrupt as error:  # noqa: PERF203 - once more round after it
                fail(error)
