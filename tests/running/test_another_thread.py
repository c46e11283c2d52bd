"""What is done in another thread is done in its order, all of it, and what goes wrong there is told here."""

from __future__ import annotations

import threading

import pytest

from onnxprune.memory_and_threads import another_thread


def test_all_is_done_in_order_elsewhere() -> None:
    done: list[int] = []
    where: set[int] = set()

    def note(number: int) -> None:
        done.append(number)
        where.add(threading.get_ident())

    with another_thread() as do:
        for number in range(50):
            do(note, number)
    assert done == list(range(50))
    assert where != {threading.get_ident()}
    assert len(where) == 1


@pytest.mark.parametrize("more", [0, 20])
def test_what_it_raises_is_raised(more: int) -> None:
    def wrong() -> None:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"), another_thread() as do:  # noqa: PT012 (at the first or at the end)
        do(wrong)
        for _ in range(more):
            do(lambda: None)
