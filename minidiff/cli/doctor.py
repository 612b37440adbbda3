"""`minidiff doctor`: whether this machine can do what minidiff asks of it."""

import json
import platform
import sys
from typing import TYPE_CHECKING

import click

from minidiff._version import __version__
from minidiff.cli.commands import Command
from minidiff.cli.messages import say
from minidiff.errors import counted, listed, printable
from minidiff.records import to_json

if TYPE_CHECKING:
    from minidiff.health.findings import Finding


@click.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, to put into a report of a bug.")
@click.pass_context
def doctor(ctx: click.Context, /, as_json: bool) -> None:
    """Look whether this machine can do all that minidiff does: a line for each thing, and what to mend.

    It looks at Python and the packages, at torch, at the GPUs and their driver, at memory, threads and caches, and at
    the models that come with minidiff. On every device it computes something and compares the result. It changes
    nothing. The exit code is 1 if there is a fault. A warning is no fault: something is slow, or a part of minidiff
    will not work.

    \b
    minidiff doctor
    minidiff doctor --json > doctor.json
    """
    import minidiff

    findings = []
    for finding in minidiff.doctor(on_begin=lambda name: show_now(f"{name} ...")):
        findings.append(finding)
        show_now("")
        if not as_json:
            say(in_flags(str(finding)))
    counts = {state: sum(finding.state == state for finding in findings) for state in ("fault", "warning")}
    if as_json:
        about = {"minidiff": __version__, "platform": platform.platform(), **{f"{key}s": counts[key] for key in counts}}
        found = [{key: in_flags(text) for key, text in to_json(finding).items()} for finding in findings]
        click.echo(json.dumps({**about, "findings": found}, indent=2))  # JSON has escapes of its own
    else:
        say(conclusion(findings, counts))
    ctx.exit(1 if counts["fault"] else 0)


def conclusion(findings: "list[Finding]", counts: dict[str, int]) -> str:
    """Say in a line how it is."""
    wrong = [counted(count, state) for state, count in counts.items() if count]
    if not wrong:
        return "All is well."
    faults = [finding.name for finding in findings if finding.state == "fault"]
    return f"{listed(wrong)}." + f" Mend first: {listed(faults)}." * bool(faults)


def in_flags(text: str) -> str:
    """Name flags of other commands in place of the package's arguments."""
    return text.replace("`compile` False", "--no-compile").replace("`device` cpu", "--device cpu")


def show_now(text: str) -> None:
    """Show what is looked at now, in a terminal, in place of what was shown before."""
    if sys.stderr.isatty():
        click.echo("\r\x1b[K" + printable(text), nl=False, err=True)
