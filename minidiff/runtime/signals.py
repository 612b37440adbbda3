"""The signals that ask a process to end, and may be waited for: SIGTERM, and SIGHUP when the terminal closes.

Rests on nothing. SIGINT, from Ctrl-C, is Python's own KeyboardInterrupt.
"""

import signal


def ending_signals() -> list[int]:
    """List the signals that ask this process to end. An ignored SIGHUP stays ignored: that is what nohup is for."""
    found: list[int] = [signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN:
        found.append(hangup)
    return found
