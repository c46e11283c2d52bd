"""What runs leave for each other in a folder: a file for each key, written whole or not at all.

An entry is a zip archive without compression: ``facts.json``, and pieces of bytes, each with its checksum. It is data
of strangers: nothing in it is code, sizes are compared before anything is read, and what does not fit is made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from onnxprune.errors import OutputError
from onnxprune.file_system import scratch

T = TypeVar("T")

#: A name, and bytes or the file that holds them.
Piece: TypeAlias = "tuple[str, Path | bytes]"

FORMAT = "onnxprune-cache"

_FACTS, _ENDING = "facts.json", ".onnxprune"

#: The longest description of an entry that is read.
_LONGEST = 64 << 20


@dataclass(frozen=True)
class Entry:
    """What was kept under a key: ``facts``, and pieces of bytes by name."""

    facts: Any
    _archive: zipfile.ZipFile = field(repr=False)

    def size(self, piece: str) -> int:
        """Bytes of a piece. Raises KeyError; ValueError where it is packed."""
        found = self._archive.getinfo(piece)
        if found.compress_type != zipfile.ZIP_STORED or found.file_size != found.compress_size:
            raise ValueError(piece)
        return found.file_size

    def read(self, piece: str, size: int) -> bytes:
        """A piece of ``size`` bytes. Raises ValueError where it has others, and BadZipFile where it is damaged."""
        if self.size(piece) != size:
            raise ValueError(piece)
        return self._archive.read(piece)

    def extract(self, piece: str, path: Path) -> None:
        """A piece as a file. Raises BadZipFile where it is damaged."""
        self.size(piece)
        with self._archive.open(piece) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)


@dataclass(frozen=True)
class CacheFolder:
    """The folder at ``path``. ``notes``: what a reader must not miss, of this run."""

    path: Path
    notes: list[str] = field(default_factory=list, repr=False)

    @classmethod
    def at(cls, path: str | os.PathLike[str] | None) -> CacheFolder | None:
        """That of an option, made where there is none. Raises OutputError where it cannot be."""
        if path is None:
            return None
        try:
            Path(path).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            what = f"cannot be a folder: {error.strerror or error}"
            raise OutputError(what, where=f"--cache {os.fspath(path)}", hint="choose another place") from None
        return cls(Path(path))

    def recall(self, key: str, read: Callable[[Entry], T]) -> T | None:
        """What ``read`` makes of the entry of this key; None where there is none, or none that can be believed."""
        path = self._place(key)
        try:
            with zipfile.ZipFile(path) as archive:
                return read(Entry(_facts(archive, key), archive))
        except FileNotFoundError:
            return None
        except Exception:  # noqa: BLE001 (whatever a stranger's file leads to)
            self._note(f"an entry of --cache was damaged, or not of this program, and is made anew: {path.name}")
            return None

    def keep(self, key: str, facts: Any, pieces: Iterable[Piece]) -> None:
        """Write an entry beside its place, then rename it: whoever reads has the old one, or the new one."""
        path = self._place(key)
        text = json.dumps({"format": FORMAT, "key": key, "facts": facts})
        try:
            with contextlib.ExitStack() as stack:
                stage = tempfile.NamedTemporaryFile(  # noqa: SIM115 (closed by the stack, and renamed before)
                    prefix=scratch.prefix(self.path, ".onnxprune."), dir=self.path, delete=False
                )
                stack.callback(Path(stage.name).unlink, missing_ok=True)
                with stage, zipfile.ZipFile(stage, "w", zipfile.ZIP_STORED) as archive:
                    archive.writestr(_FACTS, text)
                    for name, piece in pieces:
                        if isinstance(piece, bytes):
                            archive.writestr(name, piece)
                        else:
                            archive.write(piece, name)
                Path(stage.name).replace(path)
        except OSError as error:
            self._note(f"nothing was kept in --cache: {error.strerror or error}")

    def _place(self, key: str) -> Path:
        return self.path / f"{key}{_ENDING}"

    def _note(self, text: str) -> None:
        if not self.notes:  # one line is enough, however many there are
            self.notes.append(text)


def _facts(archive: zipfile.ZipFile, key: str) -> Any:
    """What an entry says of itself. Raises ValueError where it is of another key."""
    told = json.loads(Entry(None, archive).read(_FACTS, min(archive.getinfo(_FACTS).file_size, _LONGEST)))
    if told["format"] != FORMAT or told["key"] != key:
        raise ValueError(key)
    return told["facts"]


def key_of(parts: Iterable[bytes | str | memoryview]) -> str:
    """The sha256 of all that something depends on, and of the version of this program."""
    from onnxprune import __version__  # noqa: PLC0415 (reads the installed files)

    digest = hashlib.sha256(f"{FORMAT} {__version__}".encode())
    for part in parts:
        piece = part.encode() if isinstance(part, str) else part
        digest.update(f" {len(piece)} ".encode())
        digest.update(piece)
    return digest.hexdigest()


def described(facts: Mapping[str, Any]) -> str:
    """Facts as a part of a key."""
    return json.dumps(facts, sort_keys=True)
