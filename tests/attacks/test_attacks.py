"""Files from strangers: every attack has its answer, and a sample of new ones is invented each time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.attacks.reproduced import ATTACKS, Attack

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="attacks are judged in forked children")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def verdicts() -> dict[str, tuple[str, int, str]]:
    """{attack: (fault, exit code, message)}, of one process without threads, so that it can be forked."""
    command = [sys.executable, "-m", "tests.attacks.reproduced"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {name: (fault, code, err) for name, fault, code, err, _ in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.name)
def test_an_attack_is_answered(attack: Attack, verdicts: dict[str, tuple[str, int, str]]) -> None:
    fault, code, err = verdicts[attack.name]
    assert fault == ""
    assert code == attack.code, err
    for part in attack.says:
        assert part in err


def test_attacks_have_names_of_their_own() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)


@pytest.mark.parametrize("kind", ["models", "data"])
def test_a_sample_of_bad_files(kind: str) -> None:
    count = {"models": 60, "data": 30}[kind]
    fuzz(kind, count)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["models", "data"])
def test_many_bad_files(kind: str) -> None:
    fuzz(kind, 1000)


def fuzz(kind: str, count: int) -> None:
    command = [sys.executable, "-m", "tests.attacks.fuzz", "--kind", kind, "--cases", str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
