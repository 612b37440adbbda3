"""Networks of one's own: any `nn.Module` that takes (x, t), and labels if it is trained with them.

A run's config.json names the class and its arguments. But a run folder may come from anywhere, and must not choose
which code is run. So a name in it is only looked up in NETWORKS. A class gets there when the user names it: in a script
by `use_network` or in a training, on the command line by an option.

class MyUNet(nn.Module):                 # in my_module.py
    def forward(self, x, t): ...         # x float [N,C,H,W], t int64 [N] -> [N,C,H,W]

minidiff.train("ddpm", network="my_module:MyUNet", network_arguments={"width": 64})
"""

import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from minidiff.errors import UserError, one_line, shown
from minidiff.networks.configs import OwnNetwork

NETWORKS: dict[str, Callable[..., nn.Module]] = {}  # by their importable names, such as my_module:MyUNet


def use_network(network: str | Callable[..., nn.Module]) -> str:
    """Let runs be opened whose network is this class, and return its importable name.

    network: the class, or a function that makes the network; or its name, "my_module:MyUNet", which is then imported.
    The current folder is searched after all others. Raises UserError for what cannot be imported by its name.
    """
    if not isinstance(network, str):
        name = name_of(network)
        NETWORKS[name] = network
        return name
    if not re.fullmatch(r"[\w.]+:\w+", network):
        raise UserError(f"`network` is {shown(network)}. Write module and class as in my_module:MyUNet.")
    module_name, class_name = network.split(":")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"there is no module {error.name} for the `network` {network}. Run this where {error.name}.py lies."
        ) from None
    except Exception as error:  # it is the user's code
        said = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(f"the module {module_name}, which `network` names, cannot be imported ({said}).") from error
    if not hasattr(module, class_name):
        raise UserError(f"the module {module_name} has no {class_name}, which `network` names.")
    found = getattr(module, class_name)
    if not callable(found):
        raise UserError(f"{network} is {shown(found)}, and `network` must be a class, or a function that makes one.")
    NETWORKS[network] = found
    return network


def name_of(network: Callable[..., nn.Module]) -> str:
    """Return the name by which another program can import a class. Raises UserError if there is none."""
    module_name, class_name = getattr(network, "__module__", ""), getattr(network, "__qualname__", "?")
    found = getattr(sys.modules.get(module_name or ""), class_name, None)
    if module_name == "__main__" or found is not network:
        raise UserError(
            f"no other program can import {class_name}, which is defined in a script, a notebook or a function. "
            f"Put it into a file such as my_module.py, and give `network` as my_module:{class_name.split('.')[-1]}."
        )
    return f"{module_name}:{class_name}"


def build_own(config: OwnNetwork) -> nn.Module:
    """Build the network that a run's config.json names. Raises UserError unless the user has named it, too."""
    if config.module not in NETWORKS:
        raise UserError(
            f"the network of this run is {config.module}, which is not a part of minidiff, and a run may not choose "
            f"which code is run. If you trust that code, name it: `network` {config.module}; "
            f"in a script, minidiff.use_network('{config.module}')."
        )
    try:
        network = NETWORKS[config.module](**config.arguments)
    except Exception as error:  # it is the user's code
        said = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(f"{config.module} cannot be made with {shown(config.arguments)}: {said}.") from error
    if not isinstance(network, nn.Module):
        raise UserError(f"{config.module} made a {type(network).__name__}, not a torch.nn.Module.")
    return network


def plain_arguments(arguments: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return arguments as a config.json gives them back: lists for tuples. Raises UserError for what is not JSON."""
    try:
        plain = json.loads(json.dumps(dict(arguments or {}), allow_nan=False))
    except (TypeError, ValueError) as error:
        said = f"`network_arguments` are {shown(arguments)}"
        raise UserError(f"{said}, which JSON cannot hold ({one_line(error)}). Give numbers and texts.") from None
    assert isinstance(plain, dict)
    return plain


def as_unet(network: Callable[..., Tensor], label_dim: int) -> Callable[..., Tensor]:
    """Let a network of one's own be called as a `UNet` is: labels that are not told are rows of zeros.

    label_dim: how many labels it is trained with. It then takes (x, t, labels), with labels float [N,label_dim].
    """

    def call(x: Tensor, t: Tensor, labels: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        if not label_dim:
            return network(x, t)
        if labels is None:
            labels = x.new_zeros(len(x), label_dim)
        return network(x, t, labels if keep is None else labels * keep[:, None])

    return call


@torch.no_grad()
def try_network(network: nn.Module, config: OwnNetwork) -> None:
    """Raise UserError unless a network takes two images, of the size in the config, and gives two of that shape."""
    x = torch.zeros(2, config.in_channels, config.image_size, config.image_size)
    asked = f"{list(x.shape)}, t [2]" + (f", labels [2, {config.label_dim}]" if config.label_dim else "")
    training = network.training
    try:
        found = as_unet(network.eval(), config.label_dim)(x, torch.tensor([0, 1]))
    except Exception as error:  # it is the user's code
        said = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(f"{config.module} cannot be called with x {asked} ({said}).") from error
    finally:
        network.train(training)
    if not isinstance(found, Tensor) or found.shape != x.shape:
        gave = list(found.shape) if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise UserError(f"{config.module} makes {gave} of x {asked}. It must give the shape of x.")
