"""A child process that never outlives us: its lines are passed on as they come, and its whole group is killed."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.job import StageCancelled

TIED = (sys.executable, "-I", "-S", str(Path(__file__).with_name("tied_process.py")))
TAIL_LINES = 40  # what an error message can quote
POLL_SECONDS = 0.2  # how late a cancellation may be noticed
_SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "PREFECT_API_KEY")
_PASSWORD_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")


@dataclass(frozen=True)
class Ended:
    """How a child ended. `code` is negative where a signal killed it; `lines` are its last ones."""

    code: int
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def run_child(
    command: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    log_line: Callable[[str], None] = lambda _line: None,
    tick: Callable[[], None] = lambda: None,
    cancel: threading.Event | None = None,
) -> Ended:
    """Run `command` in a process group of its own until it ends; stdout and stderr come as one stream of lines.

    `tick` is called several times a second. Whatever happens here, an exception in `log_line` included, no process of
    the group is left, and the kernel kills the child if this process, or the thread that calls this, is gone.

    Raises:
        StageCancelled: `cancel` was set.
    """
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    with _started(command, cwd, env) as child:
        lines = _lines_of(child)
        while (line := _next_line(lines)) is not None:
            if line:
                tail.append(line)
                log_line(line)
            tick()
            if cancel is not None and cancel.is_set():
                raise StageCancelled(f"cancelled while it ran: {' '.join(command)}")
            if _has_ended(child):
                _kill_group(child)  # what is left of its group would keep the pipe open
    return Ended(child.returncode, tuple(tail))


def hide_secrets(text: str) -> str:
    """`text` without passwords in URLs and without the values of the environment's secret variables."""
    for value in (os.environ.get(name, "") for name in _SECRET_VARIABLES):
        if value:
            text = text.replace(value, "***")
    return _PASSWORD_IN_URL.sub("***@", text)


@contextlib.contextmanager
def _started(command: Sequence[str], cwd: Path, env: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [*TIED, str(os.getpid()), *command],
        cwd=cwd,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        yield child
    finally:
        _kill_group(child)
        child.wait()


def _has_ended(child: subprocess.Popen[str]) -> bool:
    """Without reaping it: until then its number, which is the group's, cannot be given to another process."""
    return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _kill_group(child: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def _lines_of(child: subprocess.Popen[str]) -> queue.Queue[str | None]:
    """Lines of the child's output as a thread reads them; None at their end."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert child.stdout is not None
        with child.stdout:
            for line in child.stdout:
                lines.put(hide_secrets(line.rstrip()))
        lines.put(None)

    threading.Thread(target=read, name=f"output of {child.pid}", daemon=True).start()
    return lines


def _next_line(lines: queue.Queue[str | None]) -> str | None:
    """The next line, "" where none came in time, None at the end."""
    try:
        return lines.get(timeout=POLL_SECONDS)
    except queue.Empty:
        return ""
