"""How many threads matrix products of numpy and scipy take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for BLAS inside: sums are then the same on any number of cores.

    Products of calibration are small, and threads for them cost more than they earn: on two busy cores four times the
    seconds, on two free ones the same.
    """
    from threadpoolctl import threadpool_limits  # noqa: PLC0415 (only where there is calibration)

    with threadpool_limits(1, user_api="blas"):
        yield
