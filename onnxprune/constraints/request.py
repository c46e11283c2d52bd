"""What a run asks of the weights that stay, checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from onnxprune.constraints.patterns import Pattern
from onnxprune.errors import OptionError, nearest
from onnxprune.plugins import is_code

#: How it is decided which weights become zero, beside ``module:function``.
CRITERIA = ("reconstruction", "l1", "l2", "random")

SCOPES = ("layer", "global")


@dataclass(frozen=True)
class ZerosRequest:
    """The checked options about zeros. ``share`` is None where only ``masks`` (a file) or ``own`` say how many."""

    share: float | None
    pattern: Pattern
    own: tuple[tuple[str, float], ...]
    scope: str
    criterion: str
    masks: str = ""
    seed: int = field(default=0, compare=False)

    def to_json(self) -> dict[str, Any]:
        """As plan and report write them."""
        return {
            "sparsity": self.share,
            "pattern": self.pattern.name,
            **({"sparsity_for": dict(self.own)} if self.own else {}),
            "sparsity_scope": self.scope,
            "sparsity_criterion": self.criterion,
            **({"mask": self.masks} if self.masks else {}),
        }


def zeros_asked(
    *,
    sparsity: float | None,
    pattern: str,
    sparsity_for: tuple[tuple[str, float], ...],
    scope: str | None,
    criterion: str | None,
    mask: str | None,
    solved: bool,
    seed: int,
) -> ZerosRequest | None:
    """Make the request from the options; None where they ask for no zeros. ``solved``: whether weights are solved.

    Raises OptionError.
    """
    shape, own = _pattern(pattern), sparsity_for
    if shape.share is not None:
        if any(s > 0 for _, s in own):
            what = f"{pattern} says how many zeros there are"
            raise OptionError(what, where="--sparsity-for", hint="0 leaves a layer out")
        if sparsity not in (None, shape.share):
            raise OptionError(f"{pattern} is a share of {shape.share:g}", where="--sparsity", hint="leave it out")
    share = shape.share if shape.share is not None else sparsity
    if share is None and not own and mask is None:
        others = {"--pattern": pattern != "unstructured", "--sparsity-scope": scope, "--sparsity-criterion": criterion}
        for name in (n for n, given in others.items() if given):
            raise OptionError("says nothing of how many zeros", where=name, hint="give --sparsity too")
        return None
    for where, value in (("--sparsity", share), *((f"--sparsity-for {glob}", s) for glob, s in own)):
        if value is not None and not 0 <= value < 1:
            what = f"must be at least 0 and less than 1, not {value:g}"
            raise OptionError(what, where=where, hint="0.7 makes 70 % of the weights zero")
    if scope not in (None, *SCOPES):
        raise OptionError(f"must be {' or '.join(SCOPES)}, not {scope}", where="--sparsity-scope")
    chosen = _criterion(criterion, solved=solved)
    return ZerosRequest(share, shape, own, scope or "global", chosen, mask or "", seed)


def _pattern(text: str) -> Pattern:
    try:
        return Pattern.parse(text)
    except ValueError as error:
        raise OptionError(str(error), where="--pattern") from None


def _criterion(name: str | None, *, solved: bool) -> str:
    where = "--sparsity-criterion"
    if name is not None and name not in CRITERIA and not is_code(name):
        hint = nearest(name, CRITERIA, f"{', '.join(CRITERIA)}, or module:function")
        raise OptionError(f"no criterion is called '{name}'", where=where, hint=hint)
    if name == "reconstruction" and not solved:
        raise OptionError("solves weights anew", where=where, hint="leave --data none and --no-compensate out")
    return name or ("reconstruction" if solved else "l1")
