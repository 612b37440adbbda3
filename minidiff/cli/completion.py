"""`minidiff completion`: the script by which a shell completes what is typed."""

import sys

import click

from minidiff.cli.commands import Command
from minidiff.cli.messages import echo
from minidiff.cli.types import Name

SHELLS = ("bash", "zsh", "fish")


@click.command(cls=Command)
@click.argument("shell", type=Name("shell", SHELLS))
@click.pass_context
def completion(ctx: click.Context, /, shell: str) -> None:
    """Print the script by which SHELL (bash, zsh or fish) completes commands, options, names and runs with the Tab key.

    The shell must read it when it starts. For bash and zsh, add the line below to ~/.bashrc or ~/.zshrc. For fish,
    write the script into the folder of its completions. It holds for shells that are started afterwards.

    \b
    minidiff completion bash              eval "$(minidiff completion bash)" in ~/.bashrc
    minidiff completion zsh               eval "$(minidiff completion zsh)" in ~/.zshrc, after compinit
    minidiff completion fish > ~/.config/fish/completions/minidiff.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    made = kind(ctx.find_root().command, {}, "minidiff", "_MINIDIFF_COMPLETE")
    echo(made.source_template % made.source_vars())
    if sys.stdout.isatty():
        echo(f"\nThis is for your shell to read: see `minidiff completion {shell} --help`.", err=True)
