"""The commands: one thin file each. They parse, call the library, and render what it gives."""

from __future__ import annotations

import _thread
import signal
import sys
import threading

from fieldstone.cli.launched import launched, run


def main() -> None:
    """The console entry point."""
    sys.unraisablehook = _send_again
    try:
        if launched():
            run(_run)
        else:
            _run()
    except KeyboardInterrupt:  # before a command has begun
        sys.exit(130)
    finally:  # the command is over: a Ctrl-C while Python cleans up changes nothing
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run() -> None:
    from fieldstone.cli.app import app

    app(prog_name="fieldstone")


def _send_again(lost: sys.UnraisableHookArgs) -> None:
    """A Ctrl-C that falls into some object's `__del__` is lost there: it is sent once more."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        threading.Timer(0.05, _interrupt).start()
    else:
        sys.__unraisablehook__(lost)


def _interrupt() -> None:
    """Ctrl-C for the main thread; a sleep of its own ends with it where the system can do that."""
    main_thread = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main_thread is not None:
        signal.pthread_kill(main_thread, signal.SIGINT)
    else:
        _thread.interrupt_main()
