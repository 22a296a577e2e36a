"""`python -m gateway`, and the `tallygate` command itself."""

import signal
import sys


def run() -> int:
    """One command; returns its exit code."""
    heard = signal.getsignal(signal.SIGINT)
    if heard is signal.default_int_handler:  # not where a shell has it ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while modules are loaded ends without a word
    if sys.argv[1:2] == ["edge-process"]:
        from gateway.cli.edge_process import main  # noqa: PLC0415 - what serves is there sooner without the rest
    else:
        from gateway.cli.main import main  # noqa: PLC0415 - all of them are loaded here

    signal.signal(signal.SIGINT, heard)
    return main()


if __name__ == "__main__":
    sys.exit(run())
