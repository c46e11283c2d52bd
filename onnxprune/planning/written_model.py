"""A choice of channels becomes the model to write: cut, proven, its weights solved anew, and these proven too."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from onnxprune.model.onnx_model import Model
from onnxprune.passes import JoinRows, Pass, RestoreCalls
from onnxprune.passes import run as run_passes
from onnxprune.passes.bits import planned
from onnxprune.passes.recover import Solved
from onnxprune.planning.given_model import Given
from onnxprune.planning.planner import Planner
from onnxprune.plans.plan_file import Plan
from onnxprune.progress import Stopwatch
from onnxprune.proof.exact import Proof, prove
from onnxprune.proof.revalued import Revalued, prove_revalued
from onnxprune.proof.side_by_side import On, apart
from onnxprune.proof.validity import check_valid
from onnxprune.proof.weights import GridsProof, ZerosProof, prove_grids, prove_zeros
from onnxprune.widths.choose_channels import Choice
from onnxprune.widths.plan_contest import Judged


@dataclass(frozen=True)
class Written:
    """The ``model`` to write, the ``plan`` that makes it again, and what was proven.

    ``pruned``: the model as it was run on labels, without the channels. ``changes``: what passes did. ``solved``: with
    weights solved anew; ``revalued``: proof that nothing else is new. ``zeros`` and ``grids``: proof of what was asked
    of weights, if anything was.
    """

    model: Model = field(repr=False)
    plan: Plan = field(repr=False)
    pruned: Model = field(repr=False)
    changes: tuple[str, ...]
    proof: Proof | None
    solved: Solved
    revalued: Revalued | None
    zeros: ZerosProof | None
    grids: GridsProof | None


@dataclass(frozen=True)
class Writing:
    """Makes models to write of choices by ``planner``; ``given``: what was done to the model before."""

    planner: Planner
    given: Given
    watch: Stopwatch

    def written(self, judged: Judged[Choice], made: Plan, plan: Plan | None, solved: Solved | None) -> Written:
        """The model of what was ``judged`` the best.

        ``made``: its plan; ``plan``: the saved one that says what is asked of weights, where it is not the options;
        ``solved``: the weights, where they are known. Raises CheckError where more than weights changed by solving.
        """
        planner, analysis, options, choice = self.planner, self.planner.analysis, self.planner.options, judged.best
        weighed = plan.weighed if plan is not None else options.weighed
        with self.watch.stage("rewrite"):
            lossless = options.lossless or bool(plan and plan.options.get("lossless"))
            done, whole = planner.cut(choice, lossless=lossless, weighed=weighed)
            called = run_passes(whole, self._last(choice))
            model = called.model if len(choice.groups) or weighed else analysis.inlined.model
        with self.watch.stage("prove"):
            # Nodes that are not run are known by their own names, which a call hides.
            proof = self._proof(choice, whole if analysis.still.foreign else model)
        revalued = None
        if (proof and proof.failures()) or (planner.observed is None and not weighed):
            solved = Solved(whole)
        else:
            with self.watch.stage("compensate"):
                solved = solved or planner.solved(judged, whole, made, plan)
                if solved.model is not whole:
                    revalued = prove_revalued(whole, solved.model)
                    model = run_passes(solved.model, self._last(choice)).model
                    check_valid((self.given.whole or analysis).inlined.model, model)
        zeros, grids = self._constrained(model, solved)
        return Written(
            model=model,
            plan=planned(replace(made, masks=solved.holds.masks), solved.holds.grids),
            pruned=done.model,
            changes=done.changes + called.changes,
            proof=proof,
            solved=solved,
            revalued=revalued,
            zeros=zeros,
            grids=grids,
        )

    def _last(self, choice: Choice) -> list[Pass]:
        """The passes after weights are solved: calls are put back, and outputs that were cut lose their Gather."""
        shapes, whole = choice.rewrite.shapes, self.given.rows.items()
        joined = [n for n, r in whole if shapes.get(r.whole, {r.axis: 0})[r.axis] == len(r.positions)]
        return [RestoreCalls(self.planner.analysis.inlined), *([JoinRows(joined)] if joined else [])]

    def _proof(self, choice: Choice, pruned: Model) -> Proof | None:
        options, analysis = self.planner.options, self.planner.analysis
        if options.check_n == 0:
            return None
        return prove(
            analysis.trace,
            analysis.still,
            analysis.flat,
            choice.dead,
            pruned,
            samples=options.check_n,
            seed=options.seed,
            rtol=options.rtol,
            atol=options.atol,
            original=self.given.whole.still.part if self.given.whole else None,
            progress=self.watch.announce,
        )

    def _constrained(self, written: Model, solved: Solved) -> tuple[ZerosProof | None, GridsProof | None]:
        """Prove zeros and grids; measure what they cost on seeded inputs, unless held-out samples judged it already."""
        asked, options, analysis = solved.asked, self.planner.options, self.planner.analysis
        zeros = prove_zeros(written, solved.holds.masks) if asked.fixed or asked.solved else None
        grids = prove_grids(written, solved.holds.grids) if asked.bits else None
        if not asked or solved.recovered is not None or not options.check_n or analysis.severed.foreign:
            return zeros, grids
        shapes = analysis.trace.shapes
        on = On(shapes.inputs, None, options.check_n, options.seed, shapes.draws)
        found = apart(analysis.inlined.model, written, shapes.inputs, shapes.shape, on, self.watch.announce)
        if zeros is not None:
            return replace(zeros, outputs=found.outputs), grids
        return zeros, replace(grids, outputs=found.outputs) if grids is not None else None
