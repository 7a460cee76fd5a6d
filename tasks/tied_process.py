"""Starts a command that dies with its parent. Run as a script, by its path, with `python -I -S`; imports nothing of us.

    tied_process.py PARENT_PID COMMAND...    the command is killed when process PARENT_PID dies, even by kill -9
    tied_process.py shell -c COMMAND         the same for a stage's command, whose parent is dvc: DVC runs commands by
                                             $SHELL, so that no stage has to do anything for it

Killing dvc would otherwise leave the stage's process behind: it keeps the GPU and writes into the next attempt's files.
"""

import contextlib
import ctypes
import fcntl
import os
import re
import signal
import sys
import time

PR_SET_PDEATHSIG = 1  # linux/prctl.h; kept across exec, not inherited by children
PLAIN = re.compile(r"[\w./:@+,-]+( +[\w./:@+,=-]+)*")  # words that a shell would leave as they are


def main(arguments: list[str]) -> None:
    """Tie this process to its parent, then become the command."""
    if arguments[0] != "shell":
        die_with(int(arguments[0]))
        os.environ["LNL_STAGE_PARENT"] = str(os.getpid())
        os.execvp(arguments[1], arguments[1:])
    die_with(int(os.environ["LNL_STAGE_PARENT"]))
    take_turn(os.environ["LNL_STAGE_TURN"])
    for log in {os.environ["LNL_STAGE_LOG"], os.environ.get("LNL_EXECUTION_LOG", "")} - {""}:
        note_start(log)
    run_command(arguments[-1])


def run_command(command: str) -> None:
    """Become `command`, without a shell in between where it needs none: the tie holds for one process alone.

    What a shell starts is not tied; it is killed with its process group, or else the next attempt waits for its turn.
    """
    if PLAIN.fullmatch(command):
        with contextlib.suppress(FileNotFoundError):  # a shell's own command, such as `cd`
            os.execvp(command.split()[0], command.split())
    os.execv("/bin/sh", ["/bin/sh", "-c", command])


def die_with(parent: int) -> None:
    """SIGKILL for this process when `parent` dies; at once, if it is dead already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def take_turn(path: str) -> None:
    """Wait until nothing of an earlier attempt is left, then hold the lock for as long as this command lives.

    The descriptor is inherited by whatever the command starts, so that a grandchild that survived it counts.
    """
    turn = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    os.set_inheritable(turn, True)
    fcntl.flock(turn, fcntl.LOCK_EX)


def note_start(log: str) -> None:
    """One line for each time that a stage's command really started: time, stage, process id, folder."""
    line = f"{time.time():.3f} {os.environ.get('DVC_STAGE', '?')} {os.getpid()} {os.getcwd()}\n"
    with open(log, "a", encoding="utf-8") as file:
        file.write(line)


if __name__ == "__main__":
    main(sys.argv[1:])
