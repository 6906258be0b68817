"""A program between `compressor ui` and the server: whoever of them ends, however, takes the others along.

It leads a process group, which the server and all that the server starts belong to, and its standard input is a pipe
that only the command holds: that ends with the command, however it was killed.
"""

import os
import signal
import subprocess
import sys
import threading


def main() -> None:
    """Run the words of the command line until they end or standard input does."""
    server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    threading.Thread(target=_watch, args=(server,), daemon=True).start()
    code = server.wait()
    if code < 0:  # killed: what it had started is still there
        _end(server)
    raise SystemExit(code)


def _watch(server: subprocess.Popen[bytes]) -> None:
    sys.stdin.buffer.read()
    _end(server)


def _end(server: subprocess.Popen[bytes]) -> None:
    if sys.platform == "win32":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(server.pid)], check=False)
    else:
        os.killpg(0, signal.SIGKILL)  # this process, too


if __name__ == "__main__":
    main()
