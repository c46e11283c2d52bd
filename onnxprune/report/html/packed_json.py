"""What a long page does not show at once, as text that takes a tenth of the room: the script unpacks it."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any


def packed(value: Any) -> str:
    """JSON of ``value``, compressed (zlib, RFC 1950: the browser's "deflate"), in base64."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode("ascii")
