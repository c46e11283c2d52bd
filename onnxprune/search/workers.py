"""Trials side by side: in processes of this machine or on a cluster of Dask's, through joblib, or as tasks of Ray's.

They decide who runs what; a trial whose worker has died is begun again. A worker opens a planner of its own, since
plans keep what they replay in its folder, and has one thread, since there are others. Trials come back in any order.
"""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import pickle
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock, Thread
from typing import Any, TypeAlias

import numpy as np
from onnx import ModelProto

from onnxprune.calibration import samples
from onnxprune.calibration.data_options import NO_DATA, Data
from onnxprune.calibration.model_inputs import LABELS
from onnxprune.calibration.samples import CalibrationSet
from onnxprune.errors import OptionError, ToolError
from onnxprune.file_system import scratch
from onnxprune.file_system.arrays_on_disk import Spill, spilling
from onnxprune.memory_and_threads import share_the_machine
from onnxprune.model import files
from onnxprune.model.onnx_model import PROTO_LIMIT, Model, from_proto
from onnxprune.options import Options
from onnxprune.planning.planner import Planner
from onnxprune.progress import silent
from onnxprune.search.trials import Row

#: What makes a planner of a model and options, for as long as it is used.
Opening: TypeAlias = Callable[[Model, Options], AbstractContextManager[Planner]]

#: What makes, of a planner, that which makes the row of one trial.
Making: TypeAlias = Callable[[Planner, Spill], Callable[[Any], Row]]

#: How often trials are begun whose workers were lost; and seconds in which a scheduler answers and has a worker.
_ATTEMPTS, _PATIENCE = 5, 30

_SCHEMES = ("dask://", "ray://")


@dataclass(frozen=True)
class Workers:
    """Who runs the trials of ``model``, by its ``options``; ``opening``: how each of them begins.

    ``folder``: where those of this machine leave what does not stay.
    """

    model: Model = field(repr=False)
    options: Options
    opening: Opening
    folder: str

    def rows(
        self, making: Making, planner: Planner, local: Callable[[Any], Row], trials: Sequence[Any]
    ) -> Iterator[tuple[int, Row]]:
        """(position, row) of each of ``trials`` once it is finished. Raises OnnxPruneError, as ``local`` does."""
        if not several(self.options) or len(trials) < 2:
            yield from enumerate(map(local, trials))
            return
        _ = planner.importances  # scored once, for all
        order = _Order(self._model(), self._options(planner), self.opening, making, self.folder)
        yield from _finished(order, trials, self.options)

    def _model(self) -> bytes | Path:
        """By path where the workers are here; sent where they are not, unless no message is so large."""
        path = self.model.path
        if path is not None and (self.options.cluster is None or self.model.byte_size >= PROTO_LIMIT):
            return path.resolve()
        return b"".join(self.model.pieces())

    def _options(self, planner: Planner) -> Options:
        """Those of a worker; samples are sent where workers are elsewhere."""
        options = replace(self.options, progress=silent, trials=None, resume=False)
        if planner.observed is None:
            return replace(options, data=NO_DATA)
        if options.cluster is None or planner.observed.data.drawn:
            return options
        trace, reading = planner.analysis.trace, options.reading
        assert reading is not None
        return replace(options, data=_sent(reading, samples.load(reading, trace.model, trace.shapes.inputs)))


@contextmanager
def gathered(model: Model, options: Options, opening: Opening) -> Iterator[Workers]:
    """Who runs trials; those of this machine find what this process has seen in a folder, if there is no ``--cache``.

    Raises OptionError for what nobody can be.
    """
    if options.jobs < 1:
        raise OptionError(f"must be at least 1, not {options.jobs}", where="--jobs")
    if options.cluster is not None and not options.cluster.startswith(_SCHEMES):
        where = f"--cluster {options.cluster}"
        raise OptionError("is no address of a cluster", where=where, hint="dask://HOST:PORT or ray://HOST:PORT")
    if not several(options):
        yield Workers(model, options, opening, "")
        return
    with tempfile.TemporaryDirectory(prefix=scratch.prefix(), ignore_cleanup_errors=True) as folder:
        own = options if options.cluster or options.cache else replace(options, cache=str(Path(folder, "cache")))
        yield Workers(model, own, opening, folder)


def several(options: Options) -> bool:
    """Whether trials are run by others than this process."""
    return options.cluster is not None or options.jobs > 1


def _sent(reading: Data, data: CalibrationSet) -> Data:
    """All samples that are read, as arrays: which of them help, and what is drawn beside, a worker finds as we do."""
    runs = [*data.labelled_batches(1)]
    stack = np.concatenate if data.inputs.stacked else np.stack
    held = {name: stack([feeds[name] for feeds, _ in runs]) for name in runs[0][0]}
    labels = [labels for _, labels in runs if labels is not None]
    if labels:
        held[LABELS] = np.concatenate(labels)
    return replace(reading, source=held, samples=data.count, mean=(), std=())


@dataclass(frozen=True)
class _Order:
    """What a worker is sent: the model or its path, and what to do with it."""

    model: bytes | Path = field(repr=False)
    options: Options
    opening: Opening
    making: Making
    folder: str

    @contextmanager
    def opened(self) -> Iterator[Callable[[Any], Row]]:
        """What makes rows."""
        if self.options.cluster is None:
            tempfile.tempdir = self.folder  # whoever gave the order removes it, however this ends
            Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
        loaded = (
            files.load(self.model) if isinstance(self.model, Path) else from_proto(ModelProto.FromString(self.model))
        )
        with self.opening(loaded, self.options) as planner, spilling() as spill:
            yield self.making(planner, spill)


def _finished(order: _Order, trials: Sequence[Any], options: Options) -> Iterator[tuple[int, Row]]:
    """What each trial gives, by position. Raises ToolError where workers are lost again and again."""
    import cloudpickle  # noqa: PLC0415 (only where there are several)

    data = cloudpickle.dumps(order)
    key, payload = hashlib.sha256(data).hexdigest(), np.frombuffer(data, np.uint8)
    left, lost = dict(enumerate(trials)), ""
    for _ in range(_ATTEMPTS):
        lost = yield from _attempt(key, payload, left, options)
        if not left:
            return
    raise ToolError(
        f"workers end before they are done: {lost}", where=_where(options), hint="is there memory for each?"
    )


def _attempt(key: str, payload: Any, left: dict[int, Any], options: Options) -> Generator[tuple[int, Row], None, str]:
    """Take what is finished out of ``left``; what was lost is returned in words."""
    running = _by_ray if (options.cluster or "").startswith("ray://") else _by_joblib
    try:
        for position, row in running(key, payload, [*left.items()], options):
            del left[position]
            yield position, row
    except _lost(options) as reason:
        return type(reason).__name__
    return ""


def _where(options: Options) -> str:
    return f"--cluster {options.cluster}" if options.cluster else f"--jobs {options.jobs}"


def _by_joblib(key: str, payload: Any, trials: Sequence[Any], options: Options) -> Iterator[tuple[int, Row]]:
    from joblib import Parallel, delayed  # noqa: PLC0415 (only where there are several)

    with _backend(options, payload):
        run = Parallel(batch_size=1, return_as="generator_unordered")
        yield from run([delayed(work)(key, payload, *trial) for trial in trials])


@contextmanager
def _backend(options: Options, payload: Any) -> Iterator[None]:
    """Where joblib runs what it is given. Raises ToolError where there is nobody."""
    from joblib import parallel_config  # noqa: PLC0415

    with ExitStack() as stack:
        if options.cluster is None:
            stack.enter_context(parallel_config("loky", n_jobs=options.jobs, inner_max_num_threads=1))
        else:
            client = stack.enter_context(_dask(options.cluster))
            stack.callback(client.run, close)
            stack.enter_context(parallel_config(_dask_backend(client, payload), n_jobs=-1))
        yield


def _dask(address: str) -> Any:
    where = f"--cluster {address}"
    try:
        from distributed import Client  # noqa: PLC0415
    except ImportError:
        raise ToolError("needs Dask", where=where, hint="pip install 'onnxprune[cluster]'") from None
    try:
        client: Any = Client(  # type: ignore[no-untyped-call]
            address.replace("dask://", "tcp://", 1), timeout=_PATIENCE, set_as_default=False
        )
        client.wait_for_workers(1, timeout=_PATIENCE)
    except (OSError, TimeoutError, ValueError) as error:
        hint = "dask scheduler, and dask worker HOST:PORT --nthreads 1 for each process"
        raise ToolError(f"no scheduler with workers answers: {error}", where=where, hint=hint) from None
    return client


def _dask_backend(client: Any, payload: Any) -> Any:
    from joblib._dask import DaskDistributedBackend  # noqa: PLC0415

    class Backend(DaskDistributedBackend):  # type: ignore[misc]
        def effective_n_jobs(self, n_jobs: int) -> int:
            """Never one: joblib would then run it all in this process, and the one worker idle."""
            return max(2, int(super().effective_n_jobs(n_jobs)))

    return Backend(client=client, scatter=[payload])


def _by_ray(key: str, payload: Any, trials: Sequence[Any], options: Options) -> Iterator[tuple[int, Row]]:
    """As tasks, which Ray begins again where a worker is lost: its backend of joblib gives results all at the end."""
    assert options.cluster is not None
    with _ray(options.cluster) as ray:
        held = ray.put(payload)
        task = ray.remote(num_cpus=1, max_retries=_ATTEMPTS)(work)
        left = [task.remote(key, held, *trial) for trial in trials]
        while left:
            done, left = ray.wait(left)
            try:
                yield from ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None


@contextmanager
def _ray(address: str) -> Iterator[Any]:
    """Ray, connected; let go of unless whoever calls us was connected before."""
    where = f"--cluster {address}"
    try:
        import ray  # noqa: PLC0415
    except ImportError:
        raise ToolError("needs Ray", where=where, hint="pip install 'ray[client]'") from None
    if ray.is_initialized():
        yield ray
        return
    for told in ("ray.client_builder", "ray.util.client.logsclient"):  # what its server says to itself
        logging.getLogger(told).setLevel(logging.ERROR)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            ray.init(address=address, log_to_driver=False)
            break
        except (ConnectionError, OSError, TimeoutError, ImportError, RuntimeError) as error:
            # it answered, and forked for us among its threads, which a child need not survive: the next may
            if not isinstance(error, ConnectionAbortedError) or attempt == _ATTEMPTS:
                raise ToolError(f"no cluster answers: {error}", where=where, hint="ray start --head") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _lost(options: Options) -> tuple[type[BaseException], ...]:
    """What is raised where workers are gone, and with them what they held."""
    if options.cluster is None:
        from joblib.externals.loky.process_executor import BrokenProcessPool  # noqa: PLC0415

        return (BrokenProcessPool,)
    if options.cluster.startswith("dask://"):
        from concurrent.futures import CancelledError  # noqa: PLC0415

        from distributed import KilledWorker  # noqa: PLC0415

        return KilledWorker, CancelledError
    from ray.exceptions import ObjectLostError, WorkerCrashedError  # noqa: PLC0415

    return WorkerCrashedError, ObjectLostError


# --- in a worker ----------------------------------------------------------------------------------------------------

_LOCK = Lock()

#: What was opened last, by its order: most trials of a process are of one.
_OPEN: dict[str, tuple[ExitStack, Callable[[Any], Row]]] = {}


def work(key: str, payload: Any, position: int, trial: Any) -> tuple[int, Row]:
    """The row of one trial, of the order in ``payload``: one at a time, whatever threads the worker has."""
    with _LOCK:
        if key not in _OPEN:
            _closed()
            share_the_machine()
            order = pickle.loads(payload)  # noqa: S301 (whoever sends it runs this function)
            with ExitStack() as stack:
                make = stack.enter_context(order.opened())
                _OPEN[key] = stack.pop_all(), make
        return position, _OPEN[key][1](trial)


def _end_with(parent: int) -> None:
    """End this process once ``parent`` has ended, by whatever: nobody asks for more trials then."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def close() -> None:
    """Let go of what was opened."""
    with _LOCK:
        _closed()


@atexit.register
def _closed() -> None:
    while _OPEN:
        with suppress(OSError):  # whoever gave the order may have removed its folder
            _OPEN.popitem()[1][0].close()
