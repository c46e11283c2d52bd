"""``onnxprune diff``."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxprune.cli import options as shared
from onnxprune.cli.config_file import informed

if TYPE_CHECKING:
    from onnxprune.cli.junit_summary import Checking


@informed("diff")
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@shared.taken("input_shapes")
@shared.calibration(drawn=False)
@click.option(
    "--check-n", type=int, default=3, show_default=True, help="Without --data: number of seeded inputs to run both on."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of these inputs.")
@shared.checking(proven=False)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the comparison (JSON).")
@shared.page
@click.option("-v", "--verbose", is_flag=True, help="Show every difference, not only the first ones.")
@shared.bounded
def diff(
    before: Path,
    after: Path,
    json_path: Path | None,
    page_path: Path | None,
    ci: Checking,
    *,
    lang: str | None,
    check_n: int,
    verbose: bool,
    **given: Any,
) -> None:
    """Show what differs between two models: widths, nodes, metadata, and how far their outputs are apart.

    Whoever made them: the second may come from any tool. That they differ is no error, unless it is
    by more than a limit given here.
    """
    from onnxprune.cli.printing import diff as render_diff
    from onnxprune.cli.printing import table_style
    from onnxprune.model import files
    from onnxprune.proof import side_by_side
    from onnxprune.report import diff as compare
    from onnxprune.report.gates import Measured, failure

    on = side_by_side.On(count=check_n, **given)
    first, second = files.load(before), files.load(after)
    wanted, data = [p for p in (json_path, page_path, ci.junit) if p is not None], given["data"]
    for path in (before, after):
        files.ensure_writable(wanted, keep=path, read=[data.named if data else None], appended=[ci.summary])
    with table_style.status() as announce:
        found = compare.compare(first, second, on, announce)
    checks = ci.judge(after, Measured.of_comparison(found), found.notes)
    command = shlex.join(["onnxprune", *click.get_current_context().obj])
    found = replace(found, checks=checks, command=command)
    texts = {json_path: found.to_json()}
    if page_path is not None:
        from onnxprune.report import html

        texts[page_path] = html.comparison(found, lang or html.of_locale(os.environ))
    files.write({path: text for path, text in texts.items() if path is not None})
    table_style.show(render_diff.comparison_text(found, verbose=verbose))
    if (failed := failure(checks, str(after))) is not None:
        raise failed
