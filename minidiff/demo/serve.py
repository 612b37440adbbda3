"""The server of the page: it listens on this machine alone, keeps its files in one folder, and removes that at the end.

Rests on page. Gradio reads its settings from the environment when it is imported, so it is imported here, and last.
"""

import ipaddress
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

from minidiff.demo.jobs import Jobs
from minidiff.errors import UserError

HOST, FIRST_PORT, PORTS = "127.0.0.1", 7860, 100
MAX_PIXELS = 4_000_000  # of a picture that is worked on: about a minute of a CPU, for one call of the model `photos`
UPLOAD = "50mb"  # of a file, at most


def serve_demo(
    host: str = HOST,
    port: int | None = None,
    *,
    device: str = "cpu",
    max_pixels: int = MAX_PIXELS,
    open_browser: bool = False,
    on_ready: Callable[[str], object] = print,
    wait: Callable[[], object] | None = None,
) -> None:
    """Serve the page until Ctrl-C: what `minidiff demo` does.

    host: the address to listen on; 127.0.0.1 is this machine alone. port: None for the first free one from 7860 on.
    max_pixels: larger pictures are shrunk. on_ready: called with the page's address. wait: returns when the page is to
    end; None: never. Raises UserError.
    """
    port = free_port(host, port)
    jobs = Jobs()
    with TemporaryDirectory(prefix="minidiff-demo-", ignore_cleanup_errors=True) as home, quiet_gradio(home):
        gr = import_gradio()
        from minidiff.demo.page import build
        from minidiff.demo.parts import STYLE, Settings

        work = Path(home, "work")
        work.mkdir()
        page = build(jobs, Settings(device, max_pixels, work))
        try:
            _, address, _ = page.launch(
                server_name=host, server_port=port, max_file_size=UPLOAD, css=STYLE,
                theme=gr.themes.Default(primary_hue="indigo"), inbrowser=open_browser, footer_links=["settings"],
                share=False, run_history=False, enable_monitoring=False, mcp_server=False, pwa=False, ssr_mode=False,
                num_workers=0, inline=False, quiet=True, prevent_thread_lock=True,
            )  # fmt: skip
            on_ready(address)
            (wait or threading.Event().wait)()
        finally:
            jobs.stop()
            page.close(verbose=False)
            jobs.wait(seconds=10)


def import_gradio() -> ModuleType:
    """Import Gradio. Raises UserError if it is not installed."""
    try:
        import gradio
    except ImportError:
        raise UserError(
            "the page needs a further package, gradio. Install it: pip install 'minidiff[demo]', "
            "or pip install 'gradio>=6,<7'."
        ) from None
    return gradio


@contextmanager
def quiet_gradio(home: str) -> Iterator[None]:
    """Set the environment for Gradio: files below `home`, nothing sent to its makers, no proxy to this machine."""
    local = ",".join(filter(None, [os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), HOST, "localhost"]))
    settings = {
        "GRADIO_TEMP_DIR": os.path.join(home, "gradio"), "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": local, "no_proxy": local,
    }  # fmt: skip
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def is_open(host: str) -> bool:
    """Tell whether other machines may reach a page at this address."""
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host != "localhost"


def free_port(host: str, port: int | None) -> int:
    """Return a port where nothing listens: the one that was asked for, or the first. Raises UserError."""
    tried = range(FIRST_PORT, FIRST_PORT + PORTS) if port is None else [port]
    for number in tried:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
            return number
        except socket.gaierror:
            raise UserError(f"`host` {host} is no address. Take {HOST}, or an address of this machine.") from None
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
    if port is not None:
        raise UserError(f"cannot listen at {host}, port {port}: {reason}. Take another `port`, or leave it out.")
    raise UserError(f"cannot listen at {host}: {reason}. Give a free `port`, or {HOST} as `host`.")
