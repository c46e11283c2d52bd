"""The report as one HTML page that opens offline: no network, no fonts, no files beside it."""

from onnxprune.html.page import page
from onnxprune.html.strings import LANGUAGES, of_locale

__all__ = ["LANGUAGES", "of_locale", "page"]
