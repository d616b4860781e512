"""A process that has everything imported, and forks itself for each `fewstep` command or Python block of a page.

Importing torch and the rest takes seconds, and pages start a hundred commands. Each still gets a process, a folder and
an environment of its own; only the imports are shared.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

_CLIENT = """\
#!{python} -SE
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.connect({address!r})
request = dict(kind={kind!r}, args=sys.argv[1:], folder=os.getcwd(), environment=dict(os.environ))
socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
sys.exit(int(server.recv(16) or 70))
"""


class Preloaded:
    """The server, as long as the `with` block lasts."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def __enter__(self) -> Preloaded:
        self._folder = tempfile.TemporaryDirectory(prefix="fs-")  # short, since addresses of sockets are
        self.address = f"{self._folder.name}/socket"
        command = [sys.executable, __file__, self.address]
        self._server = subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, text=True)
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.kill()
        self._server.wait()
        self._folder.cleanup()

    def command(self, file: Path, kind: str) -> None:
        """Write an executable that runs the `fewstep` command, or ("block") the Python text that it is given."""
        file.write_text(_CLIENT.format(python=sys.executable, address=self.address, kind=kind))
        file.chmod(0o755)


def serve(address: str) -> None:
    """Answer requests for ever."""
    _import_everything()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address)
    listener.listen()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        message, files, _, _ = socket.recv_fds(connection, 1 << 20, 3)
        if os.fork() == 0:
            listener.close()
            connection.send(str(_run(json.loads(message), files)).encode())
            os._exit(0)
        connection.close()
        for file in files:
            os.close(file)


def _import_everything() -> None:
    import sklearn.datasets  # noqa: F401
    import torch.utils.tensorboard  # noqa: F401
    import torchvision.utils  # noqa: F401

    import fewstep.cli.main
    import fewstep.testing
    import fewstep.training.launch  # noqa: F401
    from fewstep.core.kinds import KINDS, registry

    for kind in KINDS:
        registry(kind).names()


def _run(request: dict[str, Any], files: list[int]) -> int:
    """Do what was asked, in the forked process; returns its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    _find_installed()
    code: Any = 0
    try:
        if request["kind"] == "fewstep":
            from fewstep.cli.main import main

            main(request["args"])
        else:
            sys.path.insert(0, "")
            exec(compile(request["args"][0], "<block>", "exec"), {"__name__": "__main__"})
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


def _find_installed() -> None:
    """Look again for plugins, which the page may have installed."""
    from fewstep.core import plugins

    sys.path[:0] = [place for place in os.environ["PYTHONPATH"].split(os.pathsep) if place not in sys.path]
    plugins._loader.discovered = False


if __name__ == "__main__":
    serve(sys.argv[1])
