"""One process or many: the few functions that minidiff needs of torch.distributed.

Rests on errors. Under `torchrun` every process runs the same program; RANK, WORLD_SIZE and LOCAL_RANK tell it which one
it is. Without torchrun all of this is one process, rank 0 of 1, and costs nothing.
"""

import logging
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from minidiff.errors import UserError, one_line, shown

LOG = logging.getLogger(__name__)

Value = TypeVar("Value")
ADDRESS_OF_CARD = 0x8915  # SIOCGIFADDR of Linux (man 7 netdevice)


def rank() -> int:
    """Return the number of this process: 0, 1, ..."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return how many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Return whether this process writes files and prints: only rank 0 does."""
    return rank() == 0


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the other processes of a torchrun, by NCCL on GPUs and gloo on CPUs. Without torchrun, do nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    # The others wait while the main process decodes a large data set: longer than the usual ten minutes.
    if device.type == "cuda":
        join("nccl", device)
    else:
        choose_network_card()
        join("gloo", None)
    try:
        yield
    finally:
        dist.destroy_process_group()


def join(backend: str, device: torch.device | None) -> None:
    """Meet the other processes. Raises UserError if they cannot be reached."""
    try:
        dist.init_process_group(backend, timeout=timedelta(hours=4), device_id=device)
        if backend == "gloo":  # connects at once; NCCL would at the first exchange
            return
        dist.barrier()
    except RuntimeError as error:
        card = f"{backend.upper()}_SOCKET_IFNAME"
        raise UserError(
            f"process {os.environ.get('RANK')} of {os.environ.get('WORLD_SIZE')} does not reach the others "
            f"({one_line(error)}). On several machines: let the firewall pass all ports between them, and set {card} "
            f"on each to its network card (`ip addr` lists them). Now it is {os.environ.get(card, 'not set')}."
        ) from None


def choose_network_card() -> None:
    """Let gloo use the network card that leads to the main process, if there are several machines.

    Left alone, it takes the address that the machine's own name stands for. On many that is 127.0.0.1, where no other
    machine is heard.
    """
    if int(os.environ.get("GROUP_WORLD_SIZE", "1")) == 1 or "GLOO_SOCKET_IFNAME" in os.environ:
        return
    card = card_towards(os.environ["MASTER_ADDR"])
    if card is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = card
        LOG.info(f"machines exchange gradients over the network card {card}")


def card_towards(host: str) -> str | None:
    """Name the network card by which this machine reaches another, or itself by that name. None if it is not known."""
    if sys.platform != "linux":
        return None
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))  # of UDP: nothing is sent, the system only chooses the way
        except OSError:
            return None
        address = socket.inet_aton(probe.getsockname()[0])
        for _, card in socket.if_nameindex():
            asked = struct.pack("256s", card.encode())
            try:
                answer = fcntl.ioctl(probe, ADDRESS_OF_CARD, asked)
            except OSError:  # a card without an address
                continue
            if answer[20:24] == address:
                return card
    return None


def local_device(name: str) -> torch.device:
    """Return the device of this process: under torchrun its own GPU. `auto` is a GPU if there is one, else the CPU.

    Raises UserError for a name that torch does not know, and when there are not enough GPUs.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device, local = torch.device(name), int(os.environ.get("LOCAL_RANK", "0"))
    except RuntimeError:
        raise UserError(f"unknown `device` {shown(name)}. Known: auto, cpu, cuda, cuda:0, cuda:1, ..., mps.") from None
    if device.type == "cuda":
        if device.index is not None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError(f"`device` {name} would put every process on one GPU. Under torchrun use cuda.")
        if local >= torch.cuda.device_count():
            count = torch.cuda.device_count()
            raise UserError(f"process {local} has no GPU of its own: there are {count}. Start fewer processes.")
        device = torch.device("cuda", local if device.index is None else device.index)
        torch.cuda.set_device(device)
    name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    LOG.info(f"computing on {device}{name}; threads on the CPU: {torch.get_num_threads()}")
    return device


def any_process(flag: bool, device: torch.device) -> bool:
    """Return whether the flag is up in any process. All of them learn the same answer at the same step."""
    if world_size() == 1:
        return flag
    tensor = torch.tensor(float(flag), device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return bool(tensor.item())


def mean_over_processes(value: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes, in each of them."""
    if world_size() > 1:
        value = value.clone()
        dist.all_reduce(value)
        value /= world_size()
    return value


def shares(num: int, batch_size: int) -> Iterator[range]:
    """Yield this process's samples of 0 .. num-1, batch by batch: all, unless torchrun's processes share them."""
    for first in range(rank() * batch_size, num + rank() * batch_size, batch_size * world_size()):
        yield range(num)[first : first + batch_size]


def gather_rows(rows: Tensor, count: int) -> Tensor:
    """Return the rows of all processes, one after the other. Each gives at most `count` rows [n,...], or none."""
    if world_size() == 1:
        return rows
    home = rows.device
    if dist.get_backend() == "nccl":  # which knows tensors on the GPU only
        rows = rows.cuda()
    padded = rows.new_zeros((count, *rows.shape[1:]))
    padded[: len(rows)] = rows
    lengths = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(world_size())]
    dist.all_gather(lengths, torch.tensor([len(rows)], device=rows.device))
    parts = [torch.empty_like(padded) for _ in range(world_size())]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(length)] for part, length in zip(parts, lengths, strict=True)]).to(home)


def main_first(work: Callable[[], Value]) -> Value | None:
    """Do `work` in the main process while the others wait. Returns its result there, and None in the others.

    A UserError is raised in all of them, so that none waits for the rest.
    """
    if world_size() == 1:
        return work()
    value, error = None, None
    if is_main():
        try:
            value = work()
        except UserError as failure:
            error = failure
    box = [None if error is None else str(error)]
    dist.broadcast_object_list(box)
    if error is not None:
        raise error
    if box[0] is not None:
        error = UserError(box[0])
        error.told = True
        raise error
    return value


def from_main(value: Value) -> Value:
    """Return the main process's value, in every process."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def copy_from_main(tensors: Iterable[Tensor]) -> None:
    """Write the main process's values over those of these tensors, in every process."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)
