"""Memory that arrays gave back is there for the next ones."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

#: Minor faults of ten rounds of arrays of 16 MB, after one round.
ROUNDS = """
import resource
import numpy as np
from onnxprune.memory_and_threads import keep_what_is_freed
{first}
def one():
    arrays = [np.ones(4 << 20, np.float32) for _ in range(6)]
one()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    one()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(first: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", ROUNDS.format(first=first)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_pages_are_not_fetched_again() -> None:
    plain, kept = faults(""), faults("keep_what_is_freed()")
    assert kept < 0.2 * plain
