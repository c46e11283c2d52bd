"""How much is left of trained models out of wheels, without fine-tuning: ``python -m bench.accuracy.released``.

OCR is measured against what was drawn (``text.py``): characters read, boxes found. Of the other two there are
no labels; there the original's own answers on photographs are the truth. Preprocessing is that of the packages
that ship the models. Calibration and test samples are disjoint: other text, other photographs.
"""

from __future__ import annotations

import argparse
import functools
import io
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from PIL import Image

from bench.accuracy import boxes, command_line, ours, photographs, text
from bench.measure import publish
from fixtures import trained

Array = npt.NDArray[np.float32]
Answers = list[Array]  #: the first output for each sample

REMOVED = (0.1, 0.2, 0.3)
_BGR_MEAN = np.array([104, 117, 123], np.float32)


@dataclass(frozen=True)
class Task:
    """A released model: its samples, and what the answers to the test samples are worth.

    ``samples(count, seed, test)``: [count, ...] in the model's input shape. ``score`` is given the answers of a
    model and of the original.
    """

    samples: Callable[[int, bool], Array]
    score: Callable[[Answers, Answers], ours.Metrics]
    calibration: int
    test: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the chosen models, print one table, and write all that was measured if asked to."""
    parser = command_line.parser(__doc__, TASKS, metavar="MODEL")
    parser.add_argument("--removed", type=float, nargs="+", default=REMOVED, help="shares of the MACs")
    parser.add_argument("--align", type=int, nargs="+", default=(1,))
    parser.add_argument("--variants", nargs="+", default=list(ours.VARIANTS), choices=ours.VARIANTS)
    options = parser.parse_args(arguments)
    rows: list[dict[str, str]] = []
    data: dict[str, Any] = {"text": text.languages()}
    for key in options.nets:
        original, outcomes = measure(key, options)
        data[key] = {"original": original, "pruned": [asdict(outcome) for outcome in outcomes]}
        for removed in options.removed:
            for align in options.align:
                rows += table(key, original, outcomes, removed, align)
    publish({f"Without fine-tuning; text: {text.languages()}": rows}, data, options.json)


def measure(key: str, options: argparse.Namespace) -> tuple[ours.Metrics, list[ours.Outcome]]:
    """Prune one model in every way; progress goes to stderr, a line for each."""
    task, source = TASKS[key], trained.path(key)
    tests = task.samples(task.test, True)
    expected = answers(source, tests)
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        calibration = Path(folder, "calibration.npy")
        np.save(calibration, task.samples(task.calibration, False))
        shapes: Mapping[str, tuple[int, ...]] = trained.MODELS[key].input_shapes
        (name,) = shapes
        subject = ours.Subject(
            source,
            calibration,
            {name: (1, *tests.shape[1:])},
            lambda path: task.score(answers(path, tests), expected),
        )
        for variant in options.variants:
            for removed in options.removed:
                for align in options.align:
                    outcomes.append(ours.prune(subject, variant, 1 - removed, align))
                    print(key, outcomes[-1], file=sys.stderr, flush=True)
    return task.score(expected, expected), outcomes


def answers(path: Path, samples: Array) -> Answers:
    """What a model file says to each sample, one at a time."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return [session.run(None, {name: sample[None]})[0][0] for sample in samples]


def table(
    key: str, original: ours.Metrics, outcomes: Sequence[ours.Outcome], removed: float, align: int
) -> list[dict[str, str]]:
    """One line for each metric of one model at one budget."""
    rows = []
    for metric, before in original.items():
        row = {"model": key, "MACs removed": f"{removed:.0%}", "align": str(align), "metric": metric}
        row["original"] = f"{before:.3f}"
        for variant in ours.VARIANTS:
            found = ours.metrics(outcomes, variant, 1 - removed, align)
            row[variant] = "-" if found is None else f"{found[metric]:.3f}"
        rows.append(row)
    return rows


@functools.cache
def _lines(count: int, test: bool) -> list[text.Line]:
    return text.lines(count, seed=int(test))


@functools.cache
def _pages(count: int, test: bool) -> list[text.Page]:
    return text.pages(count, seed=int(test))


def _rapidocr(pixels: npt.NDArray[np.uint8]) -> Array:
    """[H, W, RGB] -> [BGR, H, W] in -1..1, as rapidocr feeds both of its models."""
    return pixels[:, :, ::-1].transpose(2, 0, 1).astype(np.float32) / 127.5 - 1


def line_samples(count: int, test: bool) -> Array:
    """[count, 3, 48, 320]: each line at the left, zeros at its right."""
    samples = np.zeros((count, 3, text.LINE_HEIGHT, text.LINE_WIDTH), np.float32)
    for sample, line in zip(samples, _lines(count, test), strict=True):
        sample[:, :, : line.pixels.shape[1]] = _rapidocr(line.pixels)
    return samples


def page_samples(count: int, test: bool) -> Array:
    """[count, 3, 736, 736]."""
    return np.stack([_rapidocr(page.pixels) for page in _pages(count, test)])


def nsfw_samples(count: int, test: bool) -> Array:
    """[count, 224, 224, BGR] less the mean: resized to 256, through JPEG, the middle."""
    samples = []
    for piece in photographs.crops(photographs.TEST if test else photographs.CALIBRATION, count, int(test), 256):
        file = io.BytesIO()
        piece.save(file, format="JPEG")
        decoded = np.asarray(Image.open(file), np.float32)
        samples.append(decoded[16:240, 16:240, ::-1] - _BGR_MEAN)
    return np.stack(samples)


def nudenet_samples(count: int, test: bool) -> Array:
    """[count, RGB, 320, 320] in 0..1."""
    pieces = photographs.crops(photographs.TEST if test else photographs.CALIBRATION, count, int(test), 320)
    return np.stack([np.asarray(piece, np.float32).transpose(2, 0, 1) / 255 for piece in pieces])


def read(found: Answers, _: Answers) -> ours.Metrics:
    """Characters read right, 1 - edit distance / length, and lines without an error. Answers: [T, characters]."""
    characters = _characters()
    true = [line.says for line in _lines(len(found), test=True)]
    said = []
    for answer in found:
        best = answer.argmax(1)
        fresh = np.append(True, best[1:] != best[:-1])
        said.append("".join(characters[place] for place in best[fresh & (best != 0)]))
    wrong = sum(map(edit_distance, said, true))
    whole = float(np.mean([one == other for one, other in zip(said, true, strict=True)]))
    return {"characters read": 1 - wrong / sum(map(len, true)), "lines read": whole}


@functools.cache
def _characters() -> list[str]:
    """What each class of the recognizer means: the blank, what its metadata lists, and the space."""
    session = ort.InferenceSession(str(trained.path("ppocr-rec")), providers=["CPUExecutionProvider"])
    listed = session.get_modelmeta().custom_metadata_map["character"].splitlines()
    return ["", *listed, " "]


def edit_distance(first: str, second: str) -> int:
    """Fewest characters inserted, deleted or replaced (Levenshtein)."""
    line = list(range(len(second) + 1))
    for row, one in enumerate(first, 1):
        corner, line[0] = line[0], row
        for column, other in enumerate(second, 1):
            corner, line[column] = line[column], min(corner + (one != other), line[column] + 1, line[column - 1] + 1)
    return line[-1]


def find_text(found: Answers, _: Answers) -> ours.Metrics:
    """Boxes of drawn lines found, at IoU 0.5. Answers: [1, H, W]."""
    true = [np.array(page.boxes, np.float32) for page in _pages(len(found), test=True)]
    pairs = [(boxes.of_text(answer[0]), one) for answer, one in zip(found, true, strict=True)]
    return {"boxes, F": boxes.f_measure(pairs)}


def agree_on_score(found: Answers, expected: Answers) -> ours.Metrics:
    """Correlation of log odds with the original's, and mean difference of probabilities. Answers: [2]."""
    both = np.stack([np.stack(one).astype(np.float64) for one in (found, expected)])
    odds = np.log(both[:, :, 1] + 1e-9) - np.log(both[:, :, 0] + 1e-9)
    apart = np.abs(both[0, :, 1] - both[1, :, 1]).mean()
    return {"correlation of log odds": float(np.corrcoef(odds)[0, 1]), "probability off by": float(apart)}


def agree_on_boxes(found: Answers, expected: Answers) -> ours.Metrics:
    """The original's boxes found again, with its class, at IoU 0.5. Answers: [4 + classes, places]."""
    pairs, off = [], []
    for one, other in zip(found, expected, strict=True):
        (mine, my_classes), (theirs, their_classes) = boxes.of_yolo(one), boxes.of_yolo(other)
        labels = np.union1d(my_classes, their_classes)
        pairs += [(mine[my_classes == label], theirs[their_classes == label]) for label in labels]
        off.append(np.abs(one[4:].max(1) - other[4:].max(1)).mean())
    return {"original's boxes, F": boxes.f_measure(pairs), "best scores off by": float(np.mean(off))}


TASKS: dict[str, Task] = {
    "ppocr-rec": Task(line_samples, read, 256, 400),
    "ppocr-det": Task(page_samples, find_text, 32, 40),
    "open-nsfw": Task(nsfw_samples, agree_on_score, 128, 300),
    "nudenet": Task(nudenet_samples, agree_on_boxes, 128, 300),
}


if __name__ == "__main__":
    main()
