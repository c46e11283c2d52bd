"""What is done in other threads is done in its order, all of it, and what goes wrong there is told here."""

from __future__ import annotations

import threading

import pytest

from onnxprune.memory_and_threads import another_thread, in_threads


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
    with pytest.raises(ValueError, match="wrong"), another_thread() as do:  # noqa: PT012 (at the first or at the end)
        do(wrong)
        for _ in range(more):
            do(lambda: None)


def wrong(number: int = 3) -> int:
    if number == 3:
        raise ValueError("wrong")
    return number


def test_what_is_inside_goes_on_meanwhile() -> None:
    done: list[str] = []
    here = threading.Event()

    def waiting() -> None:
        done.extend(["inside was seen"] * here.wait(60))

    with another_thread() as do:
        do(waiting)
        here.set()
    assert done == ["inside was seen"]
    with pytest.raises(ValueError, match="wrong"), another_thread() as do:
        do(wrong)


def test_values_come_in_their_order() -> None:
    assert in_threads(lambda n: n * n, range(50)) == [n * n for n in range(50)]
    with pytest.raises(ValueError, match="wrong"):
        in_threads(wrong, range(5))
