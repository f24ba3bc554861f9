"""Work on several parts at once."""

from __future__ import annotations

import threading

import pytest

from nodulens.ops.parallel import made_ahead, on_all_cores


def test_results_come_in_the_order_of_the_parts() -> None:
    assert on_all_cores(lambda n: n * n, range(50)) == [n * n for n in range(50)]
    assert list(made_ahead(lambda n: n * n, range(50))) == [n * n for n in range(50)]
    assert list(made_ahead(str, [])) == []


def test_the_next_is_made_while_one_is_used() -> None:
    made = [threading.Event() for _ in range(4)]

    def make(n: int) -> int:
        made[n].set()
        return n

    for n in made_ahead(make, range(4)):
        assert made[min(n + 1, 3)].wait(10)


def test_what_cannot_be_made_is_an_error_at_its_place() -> None:
    parts = made_ahead(lambda n: 6 // n, [2, 1, 0, 3])
    assert next(parts) == 3 and next(parts) == 6
    with pytest.raises(ZeroDivisionError):
        next(parts)
