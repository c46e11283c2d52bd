"""Scores that an earlier run left in a folder (``--cache``), for criteria that look long at calibration data."""

from __future__ import annotations

import numpy as np

from onnxprune.calibration.cached.folder import Entry, described, key_of
from onnxprune.importance import criteria
from onnxprune.importance.criterion import Scorer, Scores, Subject
from onnxprune.labels.groups import Groups


def scorer(name: str, subject: Subject, groups: Groups) -> Scorer:
    """What scores by criterion ``name``; it is made only where what it says of ``groups`` is not known yet.

    Raises OptionError where it cannot be made.
    """
    observed = subject.observed
    if (
        observed is None
        or observed.cache is None
        or name not in criteria.CRITERIA
        or not criteria.CRITERIA[name].needs_data
    ):
        return criteria.resolve(name)(subject)
    found = _Kept(name, subject)
    found(groups)
    return found


class _Kept:
    """A criterion's scores, by grouping: what this run made or read, then what the folder has, then made now."""

    def __init__(self, name: str, subject: Subject) -> None:
        self.name, self.subject = name, subject
        self.known: dict[str, list[Scores]] = {}
        self.made: Scorer | None = None

    def __call__(self, groups: Groups) -> list[Scores]:
        key = self._key(groups)
        if key not in self.known:
            self.known[key] = self._scores(key, groups)
        return self.known[key]

    def _scores(self, key: str, groups: Groups) -> list[Scores]:
        observed = self.subject.observed
        assert observed is not None
        assert observed.cache is not None

        def read(entry: Entry) -> list[Scores]:
            sizes = [8 * g.width for g in groups]
            scores = [np.frombuffer(entry.read(str(i), size), np.float64) for i, size in enumerate(sizes)]
            if not all(np.isfinite(s).all() for s in scores):
                raise ValueError(key)
            return scores

        found = observed.cache.recall(key, read)
        if found is not None:
            return found
        if self.made is None:
            self.made = criteria.resolve(self.name)(self.subject)
        made = [np.asarray(s, np.float64) for s in self.made(groups)]
        if all(np.isfinite(s).all() for s in made):
            observed.cache.keep(key, {}, ((str(i), s.tobytes()) for i, s in enumerate(made)))
        return made

    def _key(self, groups: Groups) -> str:
        subject = self.subject
        assert subject.observed is not None
        facts = {"name": self.name, "seed": subject.seed, "flops_reg": subject.flops_reg}
        units = (group.units.tobytes() for group in groups)
        return key_of(("scores", subject.observed.key, described(facts), subject.trace.unit.tobytes(), *units))
