"""The three stages: order, bounds, and the end of all when one fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator

import pytest

from vsr.inference.pipeline import AbortedError, Channel, run_pipeline


def vsr_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("vsr-")]


def run(source: Iterable[int], compute: object, write: object, depth: int = 2) -> None:
    run_pipeline(source, compute, write, read_ahead=depth, write_behind=depth)  # type: ignore[arg-type]


def plus_one(items: Iterable[int]) -> Iterator[int]:
    for item in items:
        yield item + 1


def test_everything_arrives_in_order() -> None:
    written: list[int] = []
    run(range(1000), plus_one, written.append)
    assert written == list(range(1, 1001))
    run([], plus_one, written.append)
    assert len(written) == 1000
    assert vsr_threads() == []


def test_computing_happens_in_the_callers_thread_and_the_rest_does_not() -> None:
    where: dict[str, str] = {}

    def source() -> Iterator[int]:
        where["read"] = threading.current_thread().name
        yield 1

    def compute(items: Iterable[int]) -> Iterator[int]:
        where["compute"] = threading.current_thread().name
        yield from items

    def write(item: int) -> None:
        where["write"] = threading.current_thread().name

    run(source(), compute, write)
    assert where == {"read": "vsr-read", "compute": threading.current_thread().name, "write": "vsr-write_all"}


def test_reading_never_runs_far_ahead() -> None:
    read, written, most = 0, 0, 0

    def source() -> Iterator[int]:
        nonlocal read, most
        for item in range(60):
            read += 1
            most = max(most, read - written)
            yield item

    def write(item: int) -> None:
        nonlocal written
        time.sleep(0.002)
        written += 1

    run(source(), plus_one, write, depth=3)
    # Two full channels, and one item in the hands of each of the three stages.
    assert most <= 2 * 3 + 3


@pytest.mark.parametrize("stage", ["read", "compute", "write"])
@pytest.mark.parametrize("when", [0, 1, 50])
def test_a_failure_stops_all_and_is_raised(stage: str, when: int) -> None:
    """Endless sources, full and empty channels: nobody may hang."""

    def source() -> Iterator[int]:
        item = 0
        while True:
            if stage == "read" and item == when:
                raise ValueError("read failed")
            yield item
            item += 1

    def compute(items: Iterable[int]) -> Iterator[int]:
        for item in items:
            if stage == "compute" and item == when:
                raise ValueError("compute failed")
            yield item

    def write(item: int) -> None:
        if stage == "write" and item == when:
            raise ValueError("write failed")

    with pytest.raises(ValueError, match=f"{stage} failed"):
        run(source(), compute, write)
    assert vsr_threads() == []


def test_a_slow_reader_does_not_keep_a_failed_writer_alive() -> None:
    released = threading.Event()

    def source() -> Iterator[int]:
        yield 1
        released.wait(5)
        yield 2

    def write(item: int) -> None:
        released.set()
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        run(source(), plus_one, write)


def test_the_first_failure_is_the_one_that_is_raised() -> None:
    def compute(items: Iterable[int]) -> Iterator[int]:
        try:
            yield from items
        except AbortedError as error:
            raise RuntimeError("a consequence") from error

    def source() -> Iterator[int]:
        yield 1
        raise ValueError("the cause")

    with pytest.raises(ValueError, match="the cause"):
        run(source(), compute, lambda item: None)


def test_interruption() -> None:
    def compute(items: Iterable[int]) -> Iterator[int]:
        for item in items:
            if item == 20:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        run(iter(int, 1), lambda items: compute(enumerate_only(items)), lambda item: None)
    assert vsr_threads() == []


def enumerate_only(items: Iterable[int]) -> Iterator[int]:
    for index, _ in enumerate(items):
        yield index


def test_channel_that_was_torn_down_refuses_service() -> None:
    channel: Channel[int] = Channel(2)
    channel.put(1)
    channel.abort()
    with pytest.raises(AbortedError):
        channel.put(2)
    with pytest.raises(AbortedError):
        next(iter(channel))
