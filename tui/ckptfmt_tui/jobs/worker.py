"""A job's process: `python -m ckptfmt_tui.jobs.worker`. Reads what to do, tells what it does, ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Final

from ckptfmt.errors import CkptfmtError
from ckptfmt.problems import Problem, interrupted, problem_of, storage_error
from ckptfmt_tui.jobs.protocol import GO, Advanced, Began, Event, Failed, Finished, Planned, decode_start, encode

TELL_SECONDS: Final = 0.1
"""Progress is told this often at most."""


class Teller:
    """Writes events, from any thread, and is the progress of the verb."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._done = 0
        self._told_at = 0.0

    def tell(self, event: Event) -> None:
        """Write one event. A reader that is gone is told nothing: standard input closes then, too."""
        data = encode(event)
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except BrokenPipeError:
            pass

    def begin(self, label: str, total_bytes: int | None) -> None:
        """See `Progress.begin`."""
        with self._lock:
            self._done, self._told_at = 0, 0.0
            self.tell(Began(label, total_bytes))

    def advance(self, done_bytes: int) -> None:
        """See `Progress.advance`."""
        with self._lock:
            self._done += done_bytes
            now = time.monotonic()
            if now - self._told_at >= TELL_SECONDS:
                self._told_at = now
                self.tell(Advanced(self._done))

    def end(self) -> None:
        """See `Progress.end`."""
        with self._lock:
            self.tell(Advanced(self._done))


class Agreement:
    """Waits for `go`. Whatever else comes, or the end of standard input, interrupts this process as Ctrl-C does."""

    def __init__(self, teller: Teller) -> None:
        self._teller = teller
        self._agreed = threading.Event()
        self._is_stopped = False

    def listen(self) -> None:
        """Read standard input until it ends; runs in a thread of its own."""
        while sys.stdin.buffer.readline().strip() == GO.encode():
            self._agreed.set()
        # A signal wakes the main thread from any wait. One that comes while a module is loaded may be lost, so that
        # afterwards there is a flag as well.
        os.kill(os.getpid(), signal.SIGINT)
        self._is_stopped = True
        self._agreed.set()

    def ask(self, plan: object) -> None:
        """Tell of a plan, and wait.

        Raises:
            KeyboardInterrupt: it is not agreed to.
        """
        self._teller.tell(Planned(plan))
        self._agreed.wait()
        self.heed()

    def heed(self) -> None:
        """Go no further once this process was told to stop.

        Raises:
            KeyboardInterrupt: it was.
        """
        if self._is_stopped:
            raise KeyboardInterrupt


def main() -> int:
    """Run one job."""
    teller = Teller(_own_output())
    agreement = Agreement(teller)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        path, request = decode_start(sys.stdin.buffer.readline())
        threading.Thread(target=agreement.listen, daemon=True).start()
        from ckptfmt.api import Store  # noqa: PLC0415 - standard input is listened to before anything is loaded
        from ckptfmt_tui.jobs.verbs import JOBS  # noqa: PLC0415

        agreement.heed()
        with Store.open(path) as store:
            result = JOBS[type(request)].run(store, request, teller, agreement.ask)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # All is done: it is told, whoever stops it now.
        teller.tell(Finished(result))
        return 0
    except KeyboardInterrupt:
        problem = interrupted()
    except CkptfmtError as error:
        problem = problem_of(error)
    except OSError as error:
        problem = problem_of(storage_error(error))
    except Exception as error:  # noqa: BLE001 - the outermost boundary of this process
        problem = Problem("bug", f"a bug in ckptfmt: {type(error).__name__}: {error}", "please report it", 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    teller.tell(Failed(problem.code, problem.message, problem.hint, problem.exit_code, problem.tensors))
    return problem.exit_code


def _own_output() -> int:
    """Keep standard output for events alone: what a library prints goes nowhere."""
    own = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    return own


if __name__ == "__main__":
    status = main()
    # A thread waits in a read of standard input; nothing is left to be done for it.
    os._exit(status)
