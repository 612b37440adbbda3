"""`minidiff models`: the trained models that come with minidiff."""

import click

from minidiff.cli.commands import Command
from minidiff.cli.messages import remark, say
from minidiff.files import size_in_words


def complete_name(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the name of a model."""
    from minidiff.runs.shipped import shipped

    return [name for name in shipped() if name.startswith(incomplete)]


@click.command(cls=Command)
@click.argument("name", required=False, shell_complete=complete_name)
def models(name: str | None) -> None:
    """List the trained models that come with minidiff, or say all of the one called NAME.

    Every command that takes a run takes such a name, too. A classifier is called NAME-classifier; where a command wants
    a classifier, NAME is enough.

    \b
    minidiff models
    minidiff models photos
    """
    from minidiff.reports.models import list_models, model_named

    if name is not None:
        say(str(model_named(name)))
        return
    found = list_models()
    width = max(len(model.name) for model in found)
    for model in found:
        count = model.parameters.split(" ")[0]
        say(f"{model.name:{width}}  {model.kind}, {count} parameters, {size_in_words(model.size)}")
        say(f"{'':{width}}  {model.about.purpose}")
        remark(f"{'':{width}}  {model.about.example}")
