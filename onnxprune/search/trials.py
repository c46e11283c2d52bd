"""Trials as rows of a table: JSON lines, appended, one for each trial that is finished.

A row is written whole or not at all: what a kill leaves of one is no line, and is passed over. Tables of several
machines are merged by putting one behind the other; of rows with the same key the last counts. A key is the sha256 of
all that a trial's outcome depends on: model, samples, options, metric, version.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxprune.errors import DataError, OptionError, OutputError
from onnxprune.file_system.regular_file import ensure_regular
from onnxprune.planning.planner import Planner
from onnxprune.search.metrics import Metric, UserMetric
from onnxprune.widths.metric_options import MetricOptions

FORMAT = "onnxprune-trial"

#: Options that decide which trials are run, and not what comes of one.
_STEERING = {"max_drop", "min_metric", "confidence", "minimise", "evaluations", "metric", "drop", "ratio", "budget"}

#: What trials have in common that are compared.
LIKE = ("sha256", "metric", "minimised", "samples")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """The table at ``path``, or, without one, none. ``known``: rows that need not be made again, by key."""

    path: Path | None = None
    known: Mapping[str, Row] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, options: MetricOptions) -> Table:
        """That of the options. Raises OptionError and DataError."""
        if options.resume and options.trials is None:
            raise OptionError("goes on with a table", where="--resume", hint="give --trials too")
        return cls.at(None if options.trials is None else Path(options.trials), resume=options.resume)

    @classmethod
    def at(cls, path: Path | None, *, resume: bool) -> Table:
        """``resume``: what is there need not be made again. Raises DataError where it is no table."""
        if path is None or not path.exists():
            return cls(path)
        found = rows([path])  # what is no table is not appended to
        return cls(path, {row["key"]: row for row in found} if resume else {})

    def rows(
        self,
        trials: Mapping[str, Any],
        make: Callable[[Sequence[Any]], Iterator[tuple[int, Row]]],
        common: Row,
        finished: Callable[[int], None],
    ) -> list[Row]:
        """The rows of trials by key: as they are there, or made now, and appended as soon as each is.

        ``make``: (position, row) of trials in any order; ``common``: what each row says beside; ``finished`` is told
        how many are. Raises OutputError.
        """
        found = {key: self.known[key] for key in trials if key in self.known}
        left = [key for key in trials if key not in found]
        finished(len(found))
        for position, row in make([trials[key] for key in left]):
            found[left[position]] = self.add(left[position], {**common, **row})
            finished(len(found))
        return [found[key] for key in trials]

    def add(self, key: str, row: Row) -> Row:
        """A row of this ``key``, appended. Raises OutputError."""
        made = {"format": FORMAT, "key": key, **row}
        if self.path is not None:
            _append(self.path, json.dumps(made))
        return made


def ensure_table(options: MetricOptions) -> None:
    """Raise OptionError or DataError, before any work, where the options name what is no table of trials."""
    Table.of(options)


def rows(paths: Sequence[Path]) -> list[Row]:
    """The rows of tables, each key once. Raises DataError where a line that is whole is none."""
    found: dict[str, Row] = {}
    for path in paths:
        try:
            ensure_regular(path)
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror or error}", where=str(path)) from None
        *whole, _cut = text.split("\n")
        for number, line in enumerate(whole, 1):
            if (row := _parsed(line)) is not None:
                found[row["key"]] = row
            elif line.strip() and not _broken(line):
                hint = "onnxprune writes tables with --trials"
                raise DataError("is no trial", where=f"{path}, line {number}", hint=hint)
    return list(found.values())


def _parsed(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and row.get("format") == FORMAT and isinstance(row.get("key"), str) else None


def _broken(line: str) -> bool:
    """Whether it is what a kill has left of a row: its beginning."""
    start = json.dumps({"format": FORMAT})[:-1]
    return line.startswith(start) or start.startswith(line)


def _append(path: Path, line: str) -> None:
    """One write of one line, on a line of its own, on the disk when this returns."""
    try:
        with path.open("ab+") as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
            cut = bool(end) and file.read(1) != b"\n"
            file.write((b"\n" if cut else b"") + line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutputError(f"cannot be written: {error.strerror or error}", where=str(path)) from None


def front(found: Sequence[Row]) -> set[str]:
    """Keys of the rows than which no other loses no more and leaves less, among those of one model, metric and cost."""
    best = set()
    for row in found:
        alike = [o for o in found if all(o.get(k) == row.get(k) for k in LIKE)]
        beaten = any(
            o["cost"] <= row["cost"]
            and o["drop"] <= row["drop"]
            and (o["cost"], o["drop"]) != (row["cost"], row["drop"])
            for o in alike
        )
        if not beaten:
            best.add(row["key"])
    return best


class Keys:
    """Keys of the trials of one planner and metric."""

    def __init__(self, planner: Planner, metric: Metric) -> None:
        from onnxprune import __version__  # noqa: PLC0415 (reads the installed files)

        self.sha256 = planner.analysis.inlined.model.sha256
        options = {n: v for n, v in planner.options.to_json().items() if n not in _STEERING}
        digest = hashlib.sha256()
        for part in (self.sha256, __version__, json.dumps(options, sort_keys=True, default=str), *_of(metric)):
            digest.update(f"{len(part)} {part}".encode())
        for sample in _samples(planner):
            digest.update(sample)
        self._common = digest

    def of(self, **trial: Any) -> str:
        """The key of one trial."""
        digest = self._common.copy()
        digest.update(json.dumps(trial, sort_keys=True).encode())
        return digest.hexdigest()


def _of(metric: Metric) -> Iterator[str]:
    yield metric.name
    if isinstance(metric, UserMetric):
        try:
            yield inspect.getsource(metric.function)
        except (OSError, TypeError):
            yield ""


def _samples(planner: Planner) -> Iterator[bytes]:
    if planner.observed is None:
        return
    seen = planner.observed.seen
    for part in seen.parts:
        for name, array in seen.feeds(part).items():
            yield name.encode()
            yield array.tobytes()
