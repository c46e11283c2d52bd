"""Starting the toolkit, in this interpreter's environment or in another's, and reading what it did.

The toolkit prints its cycles from C, litters the working directory and configures the logging of its process. So it
runs in a process of its own, in a folder of its own.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.cost.rknn.log import Layer, parse
from onnxprune.cost.rknn.worker import MARK
from onnxprune.errors import OutputError, ToolError
from onnxprune.file_system import scratch

Progress = Callable[[str], None]
Feeds = Mapping[str, NDArray[Any]]

_WORKER = Path(__file__).with_name("worker.py")
_INSTALL = "name an interpreter that has it with --python; docs/rknn-compiler.md says how to install it"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_STEP = re.compile(r"start: (?:rknn::)?RKNN(\w+)|^I (\w[\w ]+?)(?: \d+)? *[:.]")


@dataclass(frozen=True)
class Job:
    """One model to build. ``feeds``: its inputs in the file's order, whose shapes it is built for.

    ``output``: where the .rknn goes; ``dataset``: of int8, a text file with a line of .npy or image paths per sample;
    None: the ``feeds``. ``simulate``: run the ``feeds`` through the toolkit's simulator.
    """

    path: Path
    feeds: Feeds = field(repr=False)
    output: Path | None = None
    dataset: Path | None = None
    simulate: bool = True


@dataclass(frozen=True)
class Built:
    """What the toolkit made of a model. ``outputs``: the simulator's, in the model's order."""

    layers: tuple[Layer, ...]
    outputs: tuple[NDArray[Any], ...] = field(repr=False)
    version: str

    @property
    def cycles(self) -> int:
        """Cycles of all layers."""
        return sum(layer.total for layer in self.layers)


def build(
    jobs: Sequence[Job], target: str, dtype: str, python: Path | None = None, progress: Progress = lambda _: None
) -> tuple[Built, ...]:
    """Build each model for ``target`` at ``dtype``, 'fp16' or 'int8'.

    Raises ToolError where the toolkit is not installed or refuses a model, or a data set names no samples; OutputError.
    """
    executable = _interpreter(python)
    with tempfile.TemporaryDirectory(prefix=scratch.prefix()) as name:
        folder = Path(name)
        models = [_staged(job, folder / str(i), dtype) for i, job in enumerate(jobs)]
        task = folder / "job.json"
        given = {"target": target, "dtype": dtype, "models": models, "result": str(folder / "result.json")}
        task.write_text(json.dumps(given), encoding="utf-8")
        logs = _run([executable, str(_WORKER), str(task)], folder, [j.path for j in jobs], progress)
        try:
            result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise ToolError(
                _reason(logs), where="rknn-toolkit2", hint="run it again, or with another --python"
            ) from None
        for job, log, code in zip(jobs, logs, result["codes"], strict=True):
            if code:
                raise ToolError(f"refuses the model: {_reason([log])}", where=f"{job.path}, rknn-toolkit2 for {target}")
        for job, model in zip(jobs, models, strict=True):
            if job.output is not None:
                _place(Path(model["output"]), job.output)
        return tuple(
            Built(parse(log), _outputs(model["simulated"]), result["version"])
            for log, model in zip(logs, models, strict=True)
        )


def _interpreter(python: Path | None) -> str:
    """An interpreter that has the toolkit. Raises ToolError."""
    if python is None:
        if importlib.util.find_spec("rknn") is None:
            raise ToolError("is not installed in this environment", where="rknn-toolkit2", hint=_INSTALL)
        return sys.executable
    code = "import importlib.util as u, sys; sys.exit(u.find_spec('rknn') is None)"
    try:
        done = subprocess.run([str(python), "-c", code], capture_output=True, check=False)  # noqa: S603 (as asked for)
    except OSError as error:
        raise ToolError(
            f"cannot be run: {error.strerror}", where=str(python), hint="name a Python interpreter"
        ) from None
    if done.returncode:
        raise ToolError("is not installed there", where=f"rknn-toolkit2, {python}", hint=_INSTALL)
    return str(python)


def version(python: Path | None = None) -> str:
    """The toolkit's version. Raises ToolError where it is not installed."""
    code = "from importlib import metadata; print(metadata.version('rknn-toolkit2'))"
    done = subprocess.run([_interpreter(python), "-c", code], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise ToolError("is there, but does not say its version", where="rknn-toolkit2", hint=_INSTALL)
    return done.stdout.strip()


def _staged(job: Job, folder: Path, dtype: str) -> dict[str, Any]:
    """The job as the worker reads it, with its inputs written to ``folder``."""
    folder.mkdir()
    np.savez(folder / "fed.npz", *job.feeds.values())
    return {
        "path": str(job.path.resolve()),
        "inputs": list(job.feeds),
        "shapes": [list(a.shape) for a in job.feeds.values()],
        "output": str(folder / "model.rknn") if job.output else None,
        "fed": str(folder / "fed.npz"),
        "simulated": str(folder / "simulated.npz") if job.simulate else None,
        "dataset": str(_dataset(job, folder)) if dtype == "int8" else None,
    }


def _dataset(job: Job, folder: Path) -> Path:
    """The data set with absolute paths, or one sample of ``feeds``."""
    listed = folder / "dataset.txt"
    if job.dataset is None:
        paths = []
        for index, array in enumerate(job.feeds.values()):
            paths.append(folder / f"{index}.npy")
            np.save(paths[-1], array)
        lines = [" ".join(map(str, paths))]
    else:
        home = job.dataset.resolve().parent
        try:
            text = job.dataset.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not text"
            raise ToolError(f"cannot read the data set: {reason}", where=str(job.dataset)) from None
        lines = [" ".join(str(home / part) for part in line.split()) for line in text.splitlines() if line.strip()]
    if not lines:
        raise ToolError(
            "names no sample", where=str(job.dataset), hint="write one line of .npy or image paths per sample"
        )
    listed.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return listed


def _run(command: list[str], folder: Path, models: Sequence[Path], progress: Progress) -> list[list[str]]:
    """The log of each model, as lines; announces what the toolkit is doing."""
    logs: list[list[str]] = [[] for _ in models]
    current = 0
    with subprocess.Popen(  # noqa: S603 (as asked for)
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in _plain(process.stdout):
            if line.startswith(f"{MARK} begin"):
                current = int(line.split()[-1])
                progress(f"{models[current].name}: load")
            logs[current].append(line)
            if step := _STEP.search(line):
                progress(f"{models[current].name}: {step[1] or step[2]}")
    return logs


def _plain(stream: Iterator[str]) -> Iterator[str]:
    for line in stream:
        yield _COLOUR.sub("", line).rstrip()


def _reason(logs: Sequence[Sequence[str]]) -> str:
    """What the toolkit says went wrong: its last error line, or its last line."""
    lines = [line for log in logs for line in log if line and not line.startswith(MARK)]
    errors = [line for line in lines if line.startswith("E ") or "Error" in line]
    return (errors or lines or ["it said nothing"])[-1][:300]


def _place(source: Path, output: Path) -> None:
    """Move a finished file to its place: beside it first, then renamed."""
    try:
        with tempfile.TemporaryDirectory(
            prefix=scratch.prefix(output.resolve().parent), dir=output.resolve().parent
        ) as folder:
            staged = Path(shutil.copy(source, folder))
            staged.replace(output)
    except OSError as error:
        hint = "choose another path or free space"
        raise OutputError(f"cannot write: {error.strerror or error}", where=str(output), hint=hint) from None


def _outputs(path: str | None) -> tuple[NDArray[Any], ...]:
    if path is None:
        return ()
    with np.load(path) as file:
        return tuple(file[name] for name in file.files)
