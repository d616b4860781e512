"""Serving the demo page on this machine."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fewstep.core.errors import OperationError, UserError
from fewstep.demo.page import STYLE, Column, build_page, gradio_package
from fewstep.runs.local import find_named

if TYPE_CHECKING:
    from gradio import Blocks

LOOPBACK = "127.0.0.1"


def open_columns(names: Sequence[str], device: str = "auto") -> list[Column]:
    """The models of a page, by path, shipped name or OWNER/NAME on the Hub.

    Raises:
        UserError: there is no such model or device, or it draws no samples.
    """
    columns = [Column(name, find_named(name).build(None, device, "--device")) for name in names]
    for column in columns:
        _ = column.model.denoiser
    return columns


def launch(page: Blocks, host: str, port: int | None = None, *, share: bool = False, wait: bool = True) -> str:
    """Serve a page without telemetry, fonts and links of others; returns its address.

    Args:
        port: None for one that gradio chooses.
        share: also give it a public address, which is then returned if there is one.
        wait: whether to return only when the process is interrupted.
    """
    gr = gradio_package()
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    _, local, public = page.launch(
        server_name=host,
        server_port=port,
        share=share,
        prevent_thread_lock=not wait,
        theme=theme,
        css=STYLE,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        quiet=True,
    )
    return str(public or local).rstrip("/")


def serve(
    names: Sequence[str],
    *,
    host: str = LOOPBACK,
    port: int = 7860,
    share: bool = False,
    device: str = "auto",
    trust_plugins: bool = False,
    say: Callable[[str], None] = print,
    ready: Callable[[], object] | None = None,
) -> None:
    """Serve the page until the process is interrupted, or `ready` returns.

    Args:
        names: models, one column each.
        host: address to listen at; only this machine reaches the loopback.
        share: also give the page a public address, by a tunnel of gradio's.
        say: called with the address.
        ready: called when the page can be opened; None waits for ever.

    Raises:
        UserError: gradio is not installed, the port is in use, or the models do not fit each other.
        OperationError: the address cannot be shared.
    """
    gradio_package()
    check_port(host, port)
    page = build_page(open_columns(names, device), trust_plugins=trust_plugins)
    try:
        address = launch(page, host, port, share=share, wait=False)
    except OSError as error:  # taken in the meantime
        raise UserError(_in_use(host, port, str(error))) from None
    try:
        if share and not page.share_url:
            raise OperationError("the tunnel of gradio cannot be reached, so that the page has no public address")
        say(f"demo: {address}   (Ctrl-C ends it)")
        (ready or threading.Event().wait)()
    except KeyboardInterrupt:
        pass
    finally:
        page.close(verbose=False)


def check_port(host: str, port: int) -> None:
    """Check that the page can listen, before any model is opened.

    Raises:
        UserError: the port is in use, or the address is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise UserError(_in_use(host, port)) from None
            raise UserError(f"--host, --port: cannot listen at {host}:{port} ({error.strerror or error})") from None


def _in_use(host: str, port: int, reason: str = "") -> str:
    with socket.socket() as other:
        other.bind((LOOPBACK, 0))
        free = other.getsockname()[1]
    return f"--port: {host}:{port} is in use{f' ({reason})' if reason else ''}; take another, such as --port {free}"
