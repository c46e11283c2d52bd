"""The wall: the command line does its work in a child, whose end, whatever it is, costs a line and an exit code.

What runs a model can crash the process that it runs in, or take all memory there is. So `main`, before anything heavy
is imported, forks: the child does the work, and the parent watches its memory and the time, passes signals on, removes
what a killed child has left, and says in one line what became of it. The child tells the parent of limits and of its
temporary files in lines on a pipe; what libraries write to its standard error comes to the parent too, which keeps the
end of it for that line. Where processes cannot be forked the work is done in this one.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress
from types import FrameType

#: Seconds between looks at the child's memory, and how many it has to end by itself.
_LOOK, _GRACE = 0.1, 3.0

#: The share of the memory of the machine or container that a run may take where nothing is said.
SHARE = 0.8

#: Signals that end a run, and pass on to the child.
_ENDING = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]

#: Words that ask of the program itself: no model is run.
_ASKS = frozenset({"-h", "--help", "--version"})

_USAGE = 2


def main() -> None:
    """Run the command line, behind the wall where there can be one."""
    if hasattr(os, "fork") and "_ONNXPRUNE_COMPLETE" not in os.environ and not _ASKS.intersection(sys.argv):
        _open_streams()
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            control, told = os.pipe()
            noise, heard = os.pipe()
            pid = os.fork()
        except OSError as error:
            os.write(2, f"onnxprune: cannot start the run: {error.strerror}\n".encode())
            os._exit(_USAGE)
        if pid:
            os.close(told)
            os.close(heard)
            os._exit(_Watch(pid, control, noise).code())
        os.close(control)
        os.close(noise)
        _behind(told, heard)
    from onnxprune.cli.main import main as run

    run()


def _open_streams() -> None:
    """Open standard streams that are closed on nothing: the next file would get their number, and what is printed."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            setattr(sys, name, open(number, "w" if number else "r", closefd=False, encoding="utf-8"))  # noqa: SIM115


# --- the child ------------------------------------------------------------------------------------------------------

_told = -1


def _behind(told: int, heard: int) -> None:
    """Make this process the child: only Python writes to standard error, and the first signal ends the run."""
    global _told  # noqa: PLW0603 (one process, one parent)
    _told = told
    shown = os.dup(2)
    os.dup2(heard, 2)
    os.close(heard)
    sys.stderr = open(shown, "w", buffering=1, encoding=sys.stderr.encoding, errors=sys.stderr.errors)  # noqa: PTH123, SIM115
    for number in _ENDING:
        signal.signal(number, _end)


def _end(number: int, _frame: FrameType | None) -> None:
    for other in _ENDING:  # once is enough: what is being removed is removed
        signal.signal(other, signal.SIG_IGN)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # what falls over now is nobody's business
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _tell(*words: str) -> None:
    if _told >= 0:
        with suppress(OSError):
            os.write(_told, ("\0".join(words) + "\n\0\n").encode(errors="surrogateescape"))


def limit(memory: int | None, seconds: float | None) -> None:
    """Bound this run: bytes of memory, None for the default, and seconds. Only behind the wall."""
    if _told < 0:
        return
    from onnxprune.file_system import scratch
    from onnxprune.memory_and_threads import size_text, total_memory

    memory = memory or int(total_memory() * SHARE)
    _tell("memory", str(memory), size_text(memory))
    if seconds is not None:
        _tell("seconds", str(seconds))
    if sys.platform == "linux":
        import ctypes
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (memory if hard < 0 else min(memory, hard), hard))
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: where the parent is killed, this ends too
    if not scratch.watchers:
        scratch.watchers.append(lambda place, prefix: _tell("scratch", place, prefix))


# --- the parent -----------------------------------------------------------------------------------------------------


class _Watch:
    """What the parent knows of the child ``pid``."""

    def __init__(self, pid: int, control: int, noise: int) -> None:
        self.pid, self.control, self.noise = pid, control, noise
        self.start = time.monotonic()
        self.memory: tuple[int, str] | None = None
        self.seconds: float | None = None
        self.scratch: set[tuple[str, str]] = set()
        self.heard, self.rest = b"", b""
        self.reason = ""  # why the child was told to end
        self.signal = 0  # that ended this process
        self.deadline: float | None = None  # for its end

    def code(self) -> int:
        """Wait for the child; the exit code, once the line is said that is to be said."""
        wake, woken = os.pipe()
        os.set_blocking(woken, False)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        for number in _ENDING:
            signal.signal(number, self._ended)
        listened = [self.control, self.noise, wake]
        while True:
            ready, _, _ = select.select(listened, [], [], _LOOK)
            for source in ready:
                data = os.read(source, 65536)
                self._take(source, data)
                if not data:
                    listened.remove(source)
            done, status = os.waitpid(self.pid, 0 if self.control not in listened else os.WNOHANG)
            if done:
                return self._judge(os.waitstatus_to_exitcode(status))
            self._look()

    def _take(self, source: int, data: bytes) -> None:
        if source == self.noise:
            self.heard = (self.heard + data)[-4096:]
        elif source == self.control:
            *messages, self.rest = (self.rest + data).split(b"\n\0\n")
            for message in messages:
                kind, *words = message.decode(errors="surrogateescape").split("\0")
                if kind == "memory":
                    self.memory = int(words[0]), words[1]
                elif kind == "seconds":
                    self.seconds = float(words[0])
                else:
                    self.scratch.add((words[0], words[1]))

    def _ended(self, number: int, _frame: FrameType | None) -> None:
        self.signal = self.signal or number
        self._stop("", signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)

    def _look(self) -> None:
        """End a child that is over a limit, or that does not end when told to."""
        now = time.monotonic()
        if self.deadline is not None:
            if now > self.deadline:
                self._kill(signal.SIGKILL)
        elif self.seconds is not None and now - self.start > self.seconds:
            self._stop(f"took longer than the {self.seconds:g} seconds of --timeout", signal.SIGTERM)
        elif self.memory is not None and _anonymous(self.pid) > self.memory[0]:
            self._stop(_much(self.memory[1]), signal.SIGKILL)

    def _stop(self, reason: str, number: int) -> None:
        if self.deadline is None:
            self.reason, self.deadline = reason, time.monotonic() + _GRACE
            self._kill(number)

    def _kill(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def _judge(self, code: int) -> int:
        """What this process ends with."""
        if code or self.reason or self.signal:
            os.set_blocking(self.noise, False)
            with suppress(BlockingIOError):
                self._take(self.noise, os.read(self.noise, 65536))
            os.close(self.noise)
            os.close(self.control)  # where there are no descriptors left, the child has removed nothing
            self._tidy()
        self.signal = self.signal or (code - 128 if code - 128 in _ENDING else 0)
        if self.signal and not self.reason:
            self._say("interrupted" if self.signal == signal.SIGINT else "terminated")
            return 128 + self.signal
        if self.reason:
            self._say(self.reason)
        elif code < 0:
            name = signal.Signals(-code).name
            last = b" ".join(self.heard.split())[-200:].decode(errors="replace")
            why = "the system has no memory left, perhaps: --max-memory" if code == -signal.SIGKILL else last
            told = f"the run died of {name}{f' ({why})' if why else ''}: the model breaks what runs it"
            self._say(f"{told} (if onnxruntime runs it elsewhere, please report this)")
        return _USAGE if code < 0 or self.reason else code

    def _tidy(self) -> None:
        """Remove what the child has left."""
        import shutil
        from pathlib import Path

        for place, prefix in self.scratch:
            for path in Path(place).glob(f"{prefix}*"):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    def _say(self, text: str) -> None:
        shown = "".join(c if c.isprintable() else " " for c in text)
        clean = "\r\x1b[2K\x1b[?25h" if os.isatty(2) else ""  # a line half drawn, and the cursor
        with suppress(OSError):
            os.write(2, f"{clean}onnxprune: {shown}\n".encode(errors="replace"))


def _much(allowed: str) -> str:
    return f"takes more than {allowed} of memory (--max-memory allows more, a smaller --input-shape takes less)"


def _anonymous(pid: int) -> int:
    """Bytes of memory that a process has and no file backs; 0 where the system does not say."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:  # noqa: PTH123 (ten times a second)
            return sum(int(line.split()[1]) * 1024 for line in file if line.startswith((b"RssAnon", b"RssShmem")))
    except OSError:
        return 0


def out_of_memory() -> str:
    """What is said where memory could not be had."""
    from onnxprune.memory_and_threads import size_text, total_memory

    return _much(size_text(_allowed() or total_memory()))


def _allowed() -> int | None:
    if _told < 0 or sys.platform != "linux":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return soft if soft > 0 else None
