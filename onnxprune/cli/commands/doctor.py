"""``onnxprune doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

#: What else may be installed, and what it is for.
_OPTIONAL = {"pillow": "for images as calibration data", "torch": "to export and fine-tune; onnxprune does not need it"}


@click.command()
@click.option("--python", type=click.Path(path_type=Path), help="An interpreter with rknn-toolkit2. [default: this]")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write what was found (JSON).")
def doctor(python: Path | None, json_path: Path | None) -> None:
    """Show what this installation has: versions, providers, rknn-toolkit2, targets, a file of options."""
    import json

    from onnxprune.cli.printing import table_style
    from onnxprune.model import files

    found = _examined(python)
    if json_path is not None:
        files.ensure_writable([json_path], keep=None)
        files.write({json_path: json.dumps({"format": "onnxprune-doctor", "version": 1, **found}, indent=2) + "\n"})
    rows = [*found["versions"].items()]
    rows += [(name, version or f"not installed ({_OPTIONAL[name]})") for name, version in found["optional"].items()]
    rows.append(
        ("rknn-toolkit2", found["toolkit"]["version"] or found["toolkit"]["problem"].removeprefix("rknn-toolkit2: "))
    )
    measured = sum(bool(target["measured"]) for target in found["targets"])
    lines = [
        f"onnxruntime providers: {', '.join(found['providers'])}; onnxprune runs models on the CPU",
        f"targets: {len(found['targets'])}, {measured} of them measured (onnxprune targets lists them)",
        f"options: {found['config'] or 'no onnxprune.toml, and no [tool.onnxprune] in pyproject.toml, in this folder'}",
    ]
    table_style.show([table_style.table(("", "version"), rows), "\n".join(lines)])


def _examined(python: Path | None) -> dict[str, Any]:
    from onnxprune.cli import config_file as config
    from onnxprune.cli.options import parameters_of_prune
    from onnxprune.cost import chips as targets
    from onnxprune.cost import rknn
    from onnxprune.errors import ToolError
    from onnxprune.report.assemble import versions
    from onnxprune.running import session as runtime

    try:
        toolkit = {"version": rknn.version(python), "problem": ""}
    except ToolError as error:
        toolkit = {"version": "", "problem": str(error)}
    options = config.load(None, parameters_of_prune(), trusted=True).path
    return {
        "versions": versions(),
        "optional": {name: _version(name) for name in _OPTIONAL},
        "providers": runtime.providers(),
        "toolkit": toolkit,
        "targets": [{"name": chip.name, "measured": chip.measured} for chip in targets.shipped()],
        "config": str(options or ""),
    }


def _version(name: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
