"""The options of `minidiff sample`, as a record: a trained model, how it draws, and where the images go.

Rests on ddpm.request. Nothing here needs torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from minidiff.ddpm.request import ChainOptions
from minidiff.errors import UserError
from minidiff.images.budget import MAX_PIXELS
from minidiff.records import demand, record

if TYPE_CHECKING:
    import torch

OF_ANY = {"run", "num", "out", "force", "seed", "weights", "batch_size", "precision", "device", "on_progress"}

NOISES = ("invert", "noise", "interpolate")  # what has a picture's own noise
# What belongs to other ways of drawing.
FIXED = ("init", "init_steps", "init_mode", "compare", "progressive", "eta", "keep_eps", "variance", "size",
         "use_prior", "seed")  # fmt: skip


@record
class DrawRequest(ChainOptions):
    """A request for images from a trained model, in a file. The options of reverse chains are only for a DDPM."""

    run: str | Path | None = None  # a DDPM or a GAN, ours or of diffusers; None: the newest under runs/
    _: KW_ONLY
    num: int | None = None  # how many images; None: 16, or one for each init or condition, or 8 for a comparison
    out: str | Path | None = None  # a grid (.png), an array (.npz) or a folder; None: sample.png, or the next free name
    force: bool = False  # replace what is at `out`
    sampler: str | None = None  # None: FROM_NOISE, or FROM_INIT with an init
    init: str | Path | None = None  # an image, a folder of them, or a DIP run, to start from
    max_pixels: int = MAX_PIXELS  # refuse an init that declares more
    init_steps: Sequence[int] | None = None  # start from these saved steps of the DIP run
    labels: Sequence[str] = ()  # what to draw, such as "blue cube, yellow cylinder"; several take turns
    labels_file: str | Path | None = None  # the same as a file: see `read_conditions`
    progressive: int | None = None  # also draw x_t and the predicted x0 at this many moments
    compare: Sequence[tuple[str, int | None]] | None = None  # samplers, each with its calls: a row for each
    invert: str | Path | None = None  # a picture, or a folder of them: find the noise that ddim makes them of
    noise: str | Path | None = None  # a file that `invert` wrote: draw from this noise
    # Two ends, each a seed or a picture: draw `num` frames on the way from one to the other.
    interpolate: Sequence[str | int | Path] | None = None
    weights: str = "ema"  # the averaged ones, or raw
    precision: str | None = None  # fp32, bf16 or auto; None: as the run was trained
    device: "str | torch.device" = "cpu"
    on_progress: Callable[[int, int], object] | None = field(default=None, compare=False)  # called with (done, total)

    def __post_init__(self) -> None:
        super().__post_init__()
        demand(self.max_pixels >= 1, "max_pixels", self.max_pixels, "1 or more")
        demand(self.num is None or self.num >= 1, "num", self.num, "1 or more, or None")
        if isinstance(self.compare, str):
            raise UserError(f"`compare` is a list of (sampler, calls), not the text '{self.compare}'.")
        if self.init is not None and self.start_t is None:
            raise UserError("`init` needs `start_t`, the timestep to start from. Try `start_t` 100, or auto.")
        alone = ["`init_steps`"] * bool(self.init_steps) + ["`init_mode`"] * bool(self.init_mode)
        alone += ["`start_t` auto"] * (self.start_t == "auto")
        if self.init is None and alone:
            raise UserError(f"{alone[0]} needs `init`, what to start from. Try `init` dip.png.")
        if self.init_steps and self.num not in (None, len(self.init_steps)):
            raise UserError(f"`init_steps` draws {len(self.init_steps)}, an image for each. Leave out `num`.")
        said = [name for name in ("sampler", "steps", "progressive", "init_steps") if getattr(self, name) is not None]
        if self.compare and said:
            raise UserError(f"`compare` says which samplers and how many calls. Leave out `{said[0]}`.")
        if self.labels and self.labels_file is not None:
            raise UserError("`labels` and `labels_file` both say what to draw. Leave one of them out.")

        self.check_noises()

    def check_noises(self) -> None:
        """Raise UserError for what does not go with a picture's own noise: ddim alone finds it and follows it."""
        asked = [name for name in NOISES if getattr(self, name) is not None]
        if not asked:
            return
        kind = asked[0]
        without: tuple[str, ...] = (*asked[1:], *FIXED)
        if kind == "noise":
            without += ("steps", "start_t", "spacing")  # the file says them
        seeds = kind == "interpolate" and all(str(end).isdecimal() for end in self.interpolate or ())
        without += () if seeds else ("clip",)
        fresh = {each.name: each.default for each in fields(self)}
        for name in without:
            if getattr(self, name) != fresh[name]:
                raise UserError(f"`{name}` does not go with `{kind}`. Leave it out.")
        if self.sampler not in (None, "ddim"):
            raise UserError(
                f"`{kind}` needs a chain without new noise that can be walked both ways: ddim. Leave out `sampler`."
            )
        if self.interpolate is not None and (isinstance(self.interpolate, str) or len(self.interpolate) != 2):
            raise UserError("`interpolate` takes two ends, each a seed or a picture.")

    def of_chains(self) -> list[str]:
        """Name the options that were given and that only a reverse chain has."""
        return [
            each.name for each in fields(self)
            if each.name not in OF_ANY and getattr(self, each.name) != each.default
        ]  # fmt: skip
