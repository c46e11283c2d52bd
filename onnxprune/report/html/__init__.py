"""Reports as one HTML page that opens offline: no network, no fonts, no files beside it."""

from onnxprune.report.html.comparison import comparison
from onnxprune.report.html.page import page
from onnxprune.report.html.sensitivity import sensitivity
from onnxprune.report.html.strings import LANGUAGES, of_locale
from onnxprune.report.html.trials import trials

__all__ = ["LANGUAGES", "comparison", "of_locale", "page", "sensitivity", "trials"]
