"""The memory and BLAS threads that a run may use of the machine, or of the container that it runs in."""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

A = TypeVar("A")
B = TypeVar("B")

#: Where Linux says what a container may use: version 2 and version 1 of control groups, by the controllers' names.
_CGROUPS = {"": ("/sys/fs/cgroup", "memory.max"), "memory": ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")}

#: Where nothing says how much there is.
_UNKNOWN = 1 << 40


@cache
def total_memory() -> int:
    """Bytes of memory that the machine has, or the limit of its container, if that is less."""
    limits = [limit for path in _limits() if (limit := _limit(path)) is not None]
    return min([_machine(), *limits])


def _machine() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on this system
        return _UNKNOWN


def _limits() -> Iterator[Path]:
    """Where limits may be: of the group that this process is in, and of those above it."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        for controller in controllers.split(","):
            if controller in _CGROUPS:
                root, name = _CGROUPS[controller]
                own = Path(group.lstrip("/"))
                yield from (Path(root, part, name) for part in (own, *own.parents))


def _limit(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdecimal() else None  # 'max': no limit


def size_text(count: float) -> str:
    """A number of bytes as text, such as 1.5 GB."""
    for unit in ("bytes", "KB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.3g} PB"


#: Runs a function with arguments, now or later, in the order in which it is asked to.
Doing = Callable[..., None]


def at_once(function: Callable[..., None], *arguments: Any) -> None:
    """Call the function now."""
    function(*arguments)


#: What waits for the thread beside this one: more would only take memory.
_WAITING = 4


@contextmanager
def another_thread() -> Iterator[Doing]:
    """Give a function that runs calls in a second thread, one by one and in order, so that results do not vary.

    All calls are finished when the block ends. An exception in a call is raised by a later call, or at the end.
    """
    with ThreadPoolExecutor(1) as worker:
        asked: deque[Future[None]] = deque()

        def do(function: Callable[..., None], *arguments: Any) -> None:
            while len(asked) >= _WAITING:
                asked.popleft().result()
            asked.append(worker.submit(function, *arguments))

        yield do
        for future in asked:
            future.result()


def in_threads(function: Callable[[A], B], values: Iterable[A]) -> list[B]:
    """``function`` of each value, in order, two at a time unless this process shares the machine with others."""
    with ThreadPoolExecutor(1 if _sharing else 2) as workers:
        return list(workers.map(function, values))


_sharing: list[bool] = []


def share_the_machine() -> None:
    """Note that this process is one of several: its onnxruntime sessions have one thread from now on."""
    _sharing[:] = [True]


def session_threads() -> int:
    """Threads for a session; 0 lets onnxruntime use all cores."""
    return len(_sharing)


#: glibc's names of what `keep_what_is_freed` sets, and how far: arrays up to so many bytes lie on the heap (older ones
#: take no more than the last), which may have so many free at its end.
_MMAP_THRESHOLD, _TRIM_THRESHOLD, _ON_HEAP, _FREE = -3, -1, (128 << 20, 32 << 20), 256 << 20


def keep_what_is_freed() -> None:
    """Let glibc, where that is the C library, reuse the memory of freed arrays from now on.

    Otherwise every page of every batch is fetched from the system and zeroed again, a tenth of the time of calibration.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    any(mallopt(_MMAP_THRESHOLD, size) for size in _ON_HEAP)
    mallopt(_TRIM_THRESHOLD, _FREE)


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit BLAS to one thread inside the block, so that sums are the same on any number of cores.

    Products in calibration are small, and threads cost more than they gain: on two busy cores four times the seconds,
    on two free cores the same.
    """
    from threadpoolctl import threadpool_limits  # noqa: PLC0415 (only where there is calibration)

    with threadpool_limits(1, user_api="blas"):
        yield
