"""Files for pipelines: every check as a JUnit test case, and a summary in Markdown."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET  # written, never read

from onnxprune.errors import CheckError, OutputError, thousands
from onnxprune.model import files
from onnxprune.report.gates import Gates, Measured
from onnxprune.report.run_report import Check, SizeReport

#: What --require calls otherwise than the tables do.
_LABELS = {"channels": "prunable channels", "params": "parameters", "macs": "MACs"}


@dataclass(frozen=True)
class Checking:
    """What a pipeline asks for: limits, and the files that report whether they hold."""

    gates: Gates
    junit: Path | None
    summary: str | None

    @contextmanager
    def proving(self, model: Path) -> Iterator[None]:
        """Tell where there is nothing to measure: the result is no model, or cannot be run."""
        try:
            yield
        except CheckError as failure:
            self._tell(model, [Check("proof", passed=False, found=str(failure))], {}, ())
            raise

    def judge(self, model: Path, measured: Measured, notes: Sequence[str], seconds: float = 0.0) -> tuple[Check, ...]:
        """The proof, and a check for each limit, passed or not; they are told."""
        checks = (*measured.proof, *self.gates.checks(measured))
        self._tell(model, checks, measured.sizes, notes, seconds)
        return checks

    def _tell(
        self,
        model: Path,
        checks: Sequence[Check],
        sizes: Mapping[str, SizeReport],
        notes: Sequence[str],
        seconds: float = 0.0,
    ) -> None:
        if self.junit is not None:
            files.write({self.junit: junit_text(str(model), checks, seconds)})
        if self.summary:
            _append(Path(self.summary), summary_text(model.name, sizes, checks, notes))


def junit_text(model: str, checks: Sequence[Check], seconds: float) -> str:
    """A test suite with a case for each check of ``model``."""
    failed = str(sum(not c.passed for c in checks))
    suite = ET.Element("testsuite", name="onnxprune", tests=str(len(checks)), failures=failed, time=f"{seconds:.3f}")
    for check in checks:
        case = ET.SubElement(suite, "testcase", classname=model, name=check.name)
        if check.passed:
            ET.SubElement(case, "system-out").text = check.found
        else:
            ET.SubElement(case, "failure", message=check.found)
    ET.indent(suite)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(suite, encoding="unicode")}\n'


def summary_text(title: str, sizes: Mapping[str, SizeReport], checks: Sequence[Check], lines: Sequence[str]) -> str:
    """The summary in Markdown: sizes as a table, checks as a list, and further lines."""
    parts = [f"### onnxprune: {title}", "", "| | before | after | left |", "|---|--:|--:|--:|"]
    for name, size in sizes.items():
        share = f"{100 * size.ratio:.1f} %"
        parts.append(f"| {_LABELS.get(name, name)} | {thousands(size.before)} | {thousands(size.after)} | {share} |")
    parts += ["", *(f"- {'✅' if c.passed else '❌'} `{c.name}`: {c.found}" for c in checks)]
    return "\n".join([*parts, *(f"- {line}" for line in lines), "", ""])


def _append(path: Path, text: str) -> None:
    try:
        with open(path, "a", encoding="utf-8", opener=_without_waiting) as file:
            file.write(text)
    except OSError as error:
        raise OutputError(f"cannot write: {error.strerror}", where=str(path), hint="name another --summary") from None


def _without_waiting(path: str, flags: int) -> int:
    """A pipe that nobody reads is an error, not a wait. Windows has no such pipes."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
