"""Printing: on a terminal, tables with rules and colours and a progress bar; elsewhere plain, stable lines.

Standard output and standard error are each checked separately. NO_COLOR and TERM=dumb are respected.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from onnxprune.errors import printable
from onnxprune.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console

Row = tuple[str, ...]


class Table(str):
    """A table as plain text, its columns padded with spaces; a terminal gets it from its rows."""

    heading: str
    header: Row
    rows: Sequence[Row]
    right: frozenset[int]

    __slots__ = ("header", "heading", "right", "rows")

    def __new__(cls, header: Row, rows: Iterable[Row], right: frozenset[int], title: str) -> Table:  # noqa: PYI034 (not of 3.10)
        """Lay it out."""
        rows = [tuple(map(printable, row)) for row in rows]
        lines = [header, *rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
        text = "\n".join(
            "  ".join(
                cell.rjust(w) if i in right else cell.ljust(w)
                for i, (cell, w) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )
        made = super().__new__(cls, f"{title}\n{text}" if title else text)
        made.header, made.rows, made.right, made.heading = header, rows, right, title
        return made


def table(header: Row, rows: Iterable[Row], *, right: frozenset[int] = frozenset(), title: str = "") -> Table:
    """A table; ``right``: columns of numbers."""
    return Table(header, rows, right, title)


def paragraph(lines: Iterable[str]) -> str:
    """Lines as they are printed: each stays one, whatever a name out of a stranger's file holds."""
    return "\n".join(map(printable, lines))


def show(parts: Sequence[str]) -> None:
    """Print tables and paragraphs, with an empty line between them."""
    if not sys.stdout.isatty():
        click.echo("\n\n".join(parts))
        return
    console = _console(stderr=False)
    for number, part in enumerate(parts):
        if number:
            console.print()
        if isinstance(part, Table):
            _table(console, part)
        else:
            _paragraph(console, part)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, no_color=bool(os.environ.get("NO_COLOR")) or None)


def _table(console: Console, part: Table) -> None:
    from rich import box
    from rich.table import Table as Ruled
    from rich.text import Text

    ruled = Ruled(
        title=part.heading or None, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False
    )
    for index, name in enumerate(part.header):
        ruled.add_column(Text(name), justify="right" if index in part.right else "left", overflow="fold")
    for row in part.rows:
        ruled.add_row(*(Text(c, style="green" if c.startswith("-") and c.endswith("%") else "") for c in row))
    console.print(ruled)


def _paragraph(console: Console, part: str) -> None:
    """Lines; what stands before a colon is set apart."""
    from rich.text import Text

    for line in part.splitlines():
        text = Text(line)
        label, colon, _ = line.partition(": ")
        if colon and len(label) < 20 and not line.startswith(" "):
            text.stylize("bold yellow" if label == "note" else "bold cyan", 0, len(label))
        console.print(text, soft_wrap=True)


#: Seconds from which on a stage has a line of its own where nobody looks at a bar.
LONG = 2.0


@dataclass
class _Clock:
    """Seconds by stage; ``ended`` is told of each that ends, with its own."""

    ended: Callable[[str, float], None]
    current: str = ""
    since: float = field(default_factory=time.perf_counter)

    def turn(self, stage: str) -> bool:
        """Go on with ``stage``; whether it is another."""
        if stage == self.current:
            return False
        now = time.perf_counter()
        if self.current:
            self.ended(self.current, now - self.since)
        self.current, self.since = stage, now
        return True


@contextmanager
def status() -> Iterator[Progress]:
    """Show progress: on a terminal a bar for the current stage, and at the end the time of each stage.

    Elsewhere, print a line for each stage that took at least `LONG` seconds, when it has ended.
    """
    with _bars() if sys.stderr.isatty() else _lines() as tell:
        yield tell


@contextmanager
def _lines() -> Iterator[Progress]:
    def ended(stage: str, spent: float) -> None:
        if spent >= LONG:
            click.echo(f"{stage}: {spent:.1f} s", err=True)

    clock = _Clock(ended)

    def tell(stage: str, _done: int = 0, _total: int = 0, /) -> None:
        clock.turn(stage)

    yield tell
    clock.turn("")


@contextmanager
def _bars() -> Iterator[Progress]:
    from rich import progress as bars

    columns = (bars.SpinnerColumn(), bars.TextColumn("{task.description}"), bars.BarColumn(), bars.TimeElapsedColumn())
    console, seconds = _console(stderr=True), dict[str, float]()

    def ended(stage: str, spent: float) -> None:
        seconds[stage] = seconds.get(stage, 0.0) + spent

    clock = _Clock(ended)
    with bars.Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("", total=None)

        def tell(stage: str, done: int = 0, total: int = 0, /) -> None:
            if clock.turn(stage):
                shown.reset(task)
            shown.update(task, description=stage, completed=done, total=total or None)

        try:
            yield tell
        finally:
            clock.turn("")
    width = max(map(len, seconds), default=0)
    for stage, spent in seconds.items():
        console.print(f"{stage:<{width}}  {spent:6.1f} s", style="dim", markup=False)


def shortened(text: str, most: int = 64) -> str:
    """``text`` with its middle left out if it is long: names made by tf2onnx have hundreds of letters."""
    return text if len(text) <= most else f"{text[: most // 3]}…{text[-(most - most // 3 - 1) :]}"
