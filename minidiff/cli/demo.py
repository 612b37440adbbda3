"""`minidiff demo`: a page in the browser, to try what the package does."""

import click

from minidiff.cli.commands import Command
from minidiff.cli.messages import remark, say, warn
from minidiff.cli.types import Device, Whole


@click.command(cls=Command)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="The address to listen on. This one is for this machine alone; 0.0.0.0 is for everybody who can reach it.",
)
@click.option("--port", type=Whole(1, 65535), help="Default: the first free one from 7860 on.")
@click.option(
    "--max-pixels",
    type=Whole(min=4096),
    default=4_000_000,
    show_default=True,
    metavar="N",
    help="Shrink a picture that has more pixels.",
)
@click.option("--device", type=Device(), default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--open", "open_browser", is_flag=True, help="Open the page in the browser.")
def demo(host: str, port: int | None, max_pixels: int, device: str, open_browser: bool) -> None:
    """Serve a page for the browser: draw, restore and dehaze your own photograph, start a chain anywhere.

    It shows the runs under runs/ and the models that come with minidiff. Nothing leaves this machine. Ctrl-C ends it,
    and removes what was uploaded.

    \b
    minidiff demo
    minidiff demo --open
    minidiff demo --port 8000
    """
    from minidiff.demo.serve import is_open, serve_demo

    if is_open(host):
        warn(
            f"at {host} everybody who can reach this machine can use the page, and sees your runs. "
            "For yourself alone, leave out `host`."
        )

    def ready(address: str) -> None:
        say(f"page      {address}")
        remark("          Ctrl-C ends it, and removes what was uploaded")

    try:
        serve_demo(host, port, device=device, max_pixels=max_pixels, open_browser=open_browser, on_ready=ready)
    except KeyboardInterrupt:
        remark("ended     nothing was kept")
