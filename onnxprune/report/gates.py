"""Gates: limits that a pipeline sets on a result, each a check that passes or fails.

They come on top of the proof, whose failure no option turns into a warning. A limit on something that was not measured
fails.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from onnxprune.errors import CheckError, OptionError, nearest, thousands
from onnxprune.proof.exact import Proof
from onnxprune.report.diff import Comparison
from onnxprune.report.run_report import Check, Report, SizeReport
from onnxprune.running.snr_and_cosine import OutputError

#: What --require may limit, by the name that --budget has for it.
SIZES = ("channels", "params", "macs", "bytes", "cycles", "sparsity", "packed")

#: What it may limit of any two models.
COMPARED = ("params", "macs", "bytes")

_REQUIREMENT = re.compile(r"\s*(\w+)\s*(<=|>=)\s*(\S+)\s*")


@dataclass(frozen=True)
class Requirement:
    """A size that must be at most (``<=``) or at least (``>=``) ``limit``.

    A limit up to 1 is a share of the original's size, above 1 it is a number. Of the sizes, sparsity counts zero
    weights, and packed counts bytes of parameters, those on a grid at its bits and all others in single precision.
    """

    size: str
    sign: str
    limit: float

    @staticmethod
    def parse(text: str, sizes: Sequence[str] = SIZES) -> Requirement:
        """Parse ``macs<=0.6``, of one of ``sizes``. Raises OptionError."""
        found = _REQUIREMENT.fullmatch(text)
        try:
            limit = float(found[3]) if found else math.nan
        except ValueError:
            limit = math.nan
        if found is None or math.isnan(limit):
            raise OptionError(f"'{text}' is not SIZE<=LIMIT", where="--require", hint="macs<=0.6, in quotes in a shell")
        if found[1] not in sizes:
            raise OptionError(f"there is no size '{found[1]}' here", where="--require", hint=nearest(found[1], sizes))
        return Requirement(found[1], found[2], limit)

    def __str__(self) -> str:
        return f"{self.size}{self.sign}{self.limit:g}"


@dataclass(frozen=True)
class Measured:
    """The figures that gates check. ``outputs``: errors of the written model against the original, ``on`` some inputs.

    ``proof``: a check that says whether the proof succeeded, if there was one.
    """

    sizes: Mapping[str, SizeReport]
    outputs: tuple[OutputError, ...]
    on: str
    rewrite_error: float | None = None
    proof: tuple[Check, ...] = ()

    @staticmethod
    def of_report(report: Report) -> Measured:
        """The figures of a run: on held-out samples if there are any, else on the inputs of the proof."""
        proof, recovered = report.proof, report.recovered
        named = {
            "channels": report.channels,
            "params": report.parameters,
            "macs": report.macs,
            "bytes": report.file_bytes,
            **report.costs,
        }
        if report.sparsity is not None:
            named["sparsity"] = SizeReport(report.sparsity.size, report.sparsity.zeros)
        if report.grids is not None:
            left = 4 * (report.parameters.after - report.grids.weights) + report.grids.bytes
            named["packed"] = SizeReport(4 * report.parameters.before, left)
        if recovered is not None:
            outputs = recovered.final
            on = f"{recovered.held_out} held-out {'drawn inputs' if recovered.drawn else 'samples'}"
        else:
            outputs, on = (proof.pruning, f"{proof.samples} random inputs") if proof else ((), "")
            alone = report.zeros or report.grids
            outputs = alone.outputs if alone is not None else outputs
        if proof is None:
            return Measured(named, outputs, on)
        return Measured(named, outputs, on, proof.rewrite_error, (_proven(proof),))

    @staticmethod
    def of_comparison(found: Comparison) -> Measured:
        """The figures of a comparison of two models."""
        sizes = {"params": found.parameters, "macs": found.macs, "bytes": found.file_bytes}
        return Measured(sizes, found.outputs, found.inputs)


def _proven(proof: Proof) -> Check:
    limit = f"limit {proof.rtol:.0e}"
    for worst in proof.failures():
        return Check("proof", passed=False, found=f"tensor '{worst.name}' {worst.relative:.2e} of its range, {limit}")
    return Check("proof", passed=True, found=f"rewrite error {proof.rewrite_error:.1e} of the output's range, {limit}")


@dataclass(frozen=True)
class Gates:
    """The limits that are set, None for those that are not. ``min_snr`` is in dB."""

    max_rewrite_error: float | None = None
    min_cosine: float | None = None
    min_snr: float | None = None
    require: tuple[Requirement, ...] = field(default=())

    def __post_init__(self) -> None:
        """Raise OptionError for a limit that nothing keeps."""
        for name in ("max_rewrite_error", "min_cosine", "min_snr"):
            if (limit := getattr(self, name)) is not None and math.isnan(limit):
                raise OptionError("must be a number, not nan", where=f"--{name.replace('_', '-')}")

    def checks(self, measured: Measured) -> tuple[Check, ...]:
        """A check for each limit that is set."""
        return tuple(self._checks(measured))

    def _checks(self, measured: Measured) -> Iterator[Check]:
        if self.max_rewrite_error is not None:
            name, error = f"--max-rewrite-error {self.max_rewrite_error:g}", measured.rewrite_error
            known = "not measured" if error is None else f"{error:.1e} of the output's range"
            yield Check(name, error is not None and error <= self.max_rewrite_error, known)
        if self.min_cosine is not None:
            yield _least(f"--min-cosine {self.min_cosine:g}", self.min_cosine, measured, lambda e: e.cosine, "{:.4f}")
        if self.min_snr is not None:
            yield _least(f"--min-snr {self.min_snr:g}", self.min_snr, measured, lambda e: e.snr_db, "{:.1f} dB")
        for requirement in self.require:
            yield _required(requirement, measured.sizes.get(requirement.size))


def _least(name: str, limit: float, measured: Measured, figure: Callable[[OutputError], float], form: str) -> Check:
    """The worst output must have at least ``limit``."""
    if not measured.outputs:
        return Check(name, passed=False, found="not measured")
    worst = min(measured.outputs, key=figure)
    return Check(name, figure(worst) >= limit, f"output '{worst.name}' {form.format(figure(worst))}, on {measured.on}")


def _required(requirement: Requirement, size: SizeReport | None) -> Check:
    name = f"--require {requirement}"
    if size is None:
        return Check(name, passed=False, found="not measured")
    value = size.ratio if requirement.limit <= 1 else size.after
    passed = value <= requirement.limit if requirement.sign == "<=" else value >= requirement.limit
    return Check(name, passed, f"{thousands(size.before)} -> {thousands(size.after)}, {size.ratio:.4f} of the original")


def failure(checks: Sequence[Check], where: str) -> CheckError | None:
    """One CheckError that names all checks that failed; None where none did."""
    failed = [f"{c.name}: {c.found}" for c in checks if not c.passed]
    return CheckError("; ".join(failed), where=where, hint="choose other options, or another limit") if failed else None
