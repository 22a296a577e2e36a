"""`python -m gateway`, and the `tallygate` command itself."""

import signal
import sys


def run() -> int:
    """One command; returns its exit code."""
    heard = signal.getsignal(signal.SIGINT)
    if heard is signal.default_int_handler:  # not where a shell has it ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while modules are loaded ends without a word
    from gateway.cli.main import options_of, perform  # noqa: PLC0415 - from here on it takes its time

    options = options_of(sys.argv[1:])
    signal.signal(signal.SIGINT, heard)
    return perform(options)


if __name__ == "__main__":
    sys.exit(run())
