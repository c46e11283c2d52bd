"""Reading and checking models, and writing models and texts: each set of files is written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onnx import ModelProto

from onnxprune.errors import ModelError, OutputError
from onnxprune.file_system import scratch
from onnxprune.model.door.claims import check_claims
from onnxprune.model.door.external_data import is_external, place_of
from onnxprune.model.mapped_weights import INLINE, emptied, hold, map_file, own_data, place, pour, tensors_of
from onnxprune.model.onnx_model import PROTO_LIMIT, Model, check
from onnxprune.model.protobuf import reference, split

#: What is not whole yet has a name of this prefix.
_STAGE = ".onnxprune."


def load(path: str | os.PathLike[str]) -> Model:
    """Read and check a model, external data included.

    Raises ModelError where the file is missing, is not ONNX, claims what cannot be true, fails onnx.checker, or names
    external data that is missing, too short, or outside the model's folder. The claims that are checked are those of
    `onnxprune.model.door.claims`.
    """
    path = Path(path)
    try:
        data = map_file(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a file"
        raise ModelError(f"cannot read the model: {reason}", where=str(path)) from None
    proto = ModelProto()
    try:
        proto.ParseFromString(split(data.data, INLINE))
    except Exception:  # noqa: BLE001 (protobuf's DecodeError has no public home in all versions)
        raise ModelError("not an ONNX file, or truncated", where=str(path), hint="export or copy it again") from None
    if not proto.graph.node and not proto.graph.output:
        raise ModelError("not an ONNX model: it has no graph", where=str(path), hint="export or copy it again")
    check_claims(proto, str(path))
    weights = hold(proto, path, data)
    check(emptied(proto), str(path))
    return Model(proto, path, weights)


@dataclass(frozen=True)
class Folder:
    """A folder of files by their names in it (with ``/``); ``mark``: the file that identifies such a folder."""

    files: Mapping[str, bytes] = field(repr=False)
    mark: str = "manifest.json"

    @property
    def byte_size(self) -> int:
        """Bytes of all files."""
        return sum(map(len, self.files.values()))


def write(files: Mapping[Path, Model | Folder | str], *, external: bool = False) -> None:
    """Write models, folders and texts: either all of them or none. They are written beside their places, then renamed.

    A folder replaces the one that is there. With ``external``, or over protobuf's limit of 2 GB, the weights of
    ``<name>`` go to ``<name>.data`` beside it. Raises OutputError.
    """
    with contextlib.ExitStack() as folders:
        staged: list[tuple[Path, Path]] = []
        for given, content in files.items():
            path = _resolved(given) if given.is_symlink() else given  # a link stays one
            with _writing(path):
                _ensure_free(given, content.mark if isinstance(content, Folder) else None)
                folder = Path(
                    folders.enter_context(
                        tempfile.TemporaryDirectory(prefix=scratch.prefix(path.parent, _STAGE), dir=path.parent)
                    )
                )
                _stage(content, folder / path.name, external=external)
                staged += [(file, path.with_name(file.name)) for file in sorted(folder.iterdir(), reverse=True)]
        for source, target in staged:
            with _writing(target):
                if source.is_dir() and target.is_dir():
                    target.replace(source.with_name(f"{target.name}.before"))  # and goes with the folder that it is in
                source.replace(target)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "choose another path or free space" if path.parent.is_dir() else f"there is no folder '{path.parent}'"
        raise OutputError(f"cannot write: {error.strerror or error}", where=str(path), hint=hint) from None


def _stage(content: Model | Folder | str, path: Path, *, external: bool) -> None:
    if isinstance(content, Folder):
        for name, data in content.files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
        return
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
        return
    if external or content.byte_size >= PROTO_LIMIT:
        content = _poured(content, _data_of(path))
    with path.open("wb") as file:
        file.writelines(content.pieces())


def _poured(model: Model, path: Path) -> Model:
    """The model, with its initializers in a new file at ``path``, cut while they are written."""
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    large = {t.name: t for t in proto.graph.initializer if reference(t) or len(t.raw_data) > INLINE}
    places = pour({n: model.weights.get(n) or own_data(t) for n, t in large.items()}, path)
    for name, tensor in large.items():
        place(tensor, path.name, *places[name])
    return Model(proto, None, {n: w for n, w in model.weights.items() if n not in large})


def ensure_writable(
    paths: Sequence[Path],
    *,
    keep: Path | None,
    folders: Mapping[Path, str] | None = None,
    read: Sequence[str | os.PathLike[str] | None] = (),
    appended: Sequence[str | None] = (),
) -> None:
    """Raise OutputError before any work where a path cannot be written, is of the model ``keep``, or is given twice.

    ``folders``: the paths that will be folders, each with the mark by which an existing one may be replaced. ``read``:
    what else the run reads; ``appended``: what it only appends to, which may be a pipe.
    """
    every = [*paths, *(Path(p) for p in appended if p)]
    weights = _weights_of(keep) if keep is not None and every else set()
    sources = {_resolved(Path(p)) for p in read if p}
    targets = [_resolved(path) for path in every]
    for index, (path, target) in enumerate(zip(every, targets, strict=True)):
        if keep is not None and target == keep.resolve():
            raise OutputError("is the model itself, which stays as it is", where=str(path), hint="name another file")
        if not weights.isdisjoint((target, _data_of(target).resolve())):
            raise OutputError("would replace weights of the model", where=str(path), hint="name another file")
        if target in sources:
            raise OutputError("is read by this run", where=str(path), hint="name another file")
        if target in targets[:index]:
            raise OutputError("is named twice as an output", where=str(path), hint="name another file")
        if index >= len(paths):
            continue
        with _writing(path), tempfile.NamedTemporaryFile(prefix=scratch.prefix(path.parent, _STAGE), dir=path.parent):
            _ensure_free(path, (folders or {}).get(path))


def _resolved(path: Path) -> Path:
    """Where ``path`` leads, through links. Raises OutputError where they lead in a circle."""
    try:
        found = path.resolve()
    except (OSError, RuntimeError):  # of a circle, before Python 3.13
        found = path
    if found.is_symlink():
        raise OutputError("is a link that leads in a circle", where=str(path), hint="name another file")
    return found


def _data_of(path: Path) -> Path:
    """The file of the weights of a model at ``path``, where they do not go into it."""
    return path.with_name(f"{path.name}.data")


def _weights_of(model: Path) -> set[Path]:
    """The files that hold external data of ``model``; none where it cannot be read, which `load` says."""
    proto = ModelProto()
    try:
        proto.ParseFromString(split(map_file(model).data, INLINE))
        places = [place_of(t) for t in tensors_of(proto) if is_external(t) and reference(t) is None]
        return {(model.parent / place.location).resolve() for place in places}
    except Exception:  # noqa: BLE001 (a stranger's file)
        return set()


def _ensure_free(path: Path, mark: str | None) -> None:
    """Raise OutputError for what is there and not of the kind that is written: a file, or a folder with ``mark`` in it.

    A pipe or a device is never replaced, nor is a link to one, as /dev/stdout is.
    """
    folder = path.parent.resolve()
    special = folder == Path("/dev") or folder.is_relative_to("/proc")
    if special or (path.exists() and not path.is_dir() and not path.is_file()):
        raise OutputError("is a pipe or a device", where=str(path), hint="name a file")
    if mark is None and path.is_dir():
        raise OutputError("is a folder", where=str(path), hint="name a file")
    if mark is not None and path.exists() and not (path / mark).is_file() and not _is_empty(path):
        what = f"is there already, and has no {mark} in it"
        raise OutputError(what, where=str(path), hint="name another folder")


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
