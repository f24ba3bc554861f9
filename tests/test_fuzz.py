"""Damaged and hostile inputs by the hundred: no fault, no death, no hang, and nothing read that cannot be.

More seeds: ``python tests/fuzz.py --seed 1 --count 5000``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import fuzz
from reader_worker import Worker

COUNT = 620
pytestmark = pytest.mark.skipif(os.name != "posix", reason="limits and signals are of POSIX systems")


def test_what_ends_badly_is_noticed() -> None:
    with Worker(limit_s=30) as worker:
        assert worker.run("fail", "fault").kind == "fault"
        assert worker.run("fail", "memory").detail["class"] == "MemoryError"
        assert worker.run("fail", "dead").kind == "dead"
        worker.run("fail", "fault")  # starts it again: its start is no part of the limit below
        worker.limit_s = 0.5
        assert worker.run("fail", "hung").kind == "hung"


def test_every_sample_is_well_before_it_is_mutated(tmp_path: Path) -> None:
    known = fuzz.samples()
    assert len({sample.kind for sample in known}) == len(known) >= 30
    with Worker(limit_s=60) as worker:
        for number, sample in enumerate(known):
            place = tmp_path / str(number)
            fuzz.put(sample.pack(sample.files), place)
            outcome = worker.run(*(word.replace("{}", str(place)) for word in sample.job))
            wanted = "refused" if sample.kind == "nifti hdr + img" else "read"  # a pair is to be converted
            assert outcome.kind == wanted, (sample.kind, outcome)


def test_mutations_repeat_by_their_seed() -> None:
    sample = next(one for one in fuzz.samples() if one.kind == "metaimage")
    assert fuzz.mutated(sample, 5) == fuzz.mutated(sample, 5)
    assert len({str(fuzz.mutated(sample, seed)) for seed in range(20)}) > 15


@pytest.mark.fuzz
def test_mutated_inputs_are_refused_or_read_right(record_property: Callable[[str, object], None]) -> None:
    with Worker(limit_s=30) as worker:
        results = list(fuzz.run(0, COUNT, worker))
    counts = fuzz.table(results)
    record_property("fuzzed", counts)
    print(counts)
    assert not fuzz.failures(results), fuzz.failures(results)
    assert sum(result.outcome.kind == "read" for result in results) > COUNT / 10, "some must reach the end"
    assert sum(result.outcome.kind == "refused" for result in results) > COUNT / 10
