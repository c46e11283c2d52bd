"""What `sensitivity` found, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from onnxprune.report.assemble import versions
from onnxprune.report.run_report import plain
from onnxprune.search.sensitivity import Sensitivity

FORMAT, VERSION = "onnxprune-sensitivity", 1


def to_json(found: Sensitivity, options: Mapping[str, Any], command: str) -> str:
    """The file's text."""
    told = {"format": FORMAT, "version": VERSION, **asdict(found)}
    told |= {"options": options, "command": command, "versions": versions()}
    return json.dumps(plain(told), indent=1) + "\n"
