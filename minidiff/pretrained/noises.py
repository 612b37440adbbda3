"""Kinds of drawing in which the noise matters: a picture's own noise, pictures from it, and the way between two.

Rests on ddpm.ode. A file of noise says all that is needed to come back: the timesteps, the labels and the guidance.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from minidiff.arrays import open_npz
from minidiff.data.conditions import labels_in_words
from minidiff.ddpm.inits import noise_deviation
from minidiff.ddpm.ode import Way, invert, regenerate, way_of
from minidiff.ddpm.run import Run
from minidiff.diffusion.inversion import shares, slerp
from minidiff.errors import UserError, counted
from minidiff.files import write_atomically
from minidiff.images.convert import Pixels, to_uint8
from minidiff.images.files import IMAGE_SUFFIXES, write_image
from minidiff.images.grid import grid, name_columns, table
from minidiff.images.quality import psnr
from minidiff.pretrained.inits import doubts, read_inits, say_sizes
from minidiff.pretrained.order import NOTHING, Advance, Drawn, Order, Say, finished
from minidiff.pretrained.request import DrawRequest
from minidiff.rng import randn, sample_generators
from minidiff.runtime import distributed

FRAMES = 9  # of a strip between two pictures, unless told
SHOWN = 32  # pictures that a sheet shows at most
POOR = 30  # dB; below, the eye sees at once that a picture did not come back


def plan_noises(request: DrawRequest, run: Run, target: Path, lines: list[str]) -> Order:
    """Decide what is drawn when noise is asked for, or given. lines: the messages so far. Raises UserError."""
    conditions = run.conditions(request.labels, request.labels_file)
    if run.prior_use == "residual":
        raise UserError("the network of this run sees the output of a prior, and none belongs to a picture or a noise.")
    start_t = request.start_t if isinstance(request.start_t, int) else None
    way = way_of(run, request.steps, start_t, request.spacing, request.guidance_scale or 1.0)
    if request.noise is not None:
        return from_file(request, run, target, lines, conditions)
    run.labels.check(conditions or None, request.guidance_scale)
    if request.invert is not None:
        inits = read_inits(run, request.invert, None, request.num, request.max_pixels)
        size = say_sizes(inits.sizes, None if run.any_size else run.shape[1])
        lines += [f"pictures  {request.invert}: {size}", f"way       {say_way(way)}"]
        labels = turns(conditions, len(inits.images))
        warnings = doubts(run, request.invert, inits)
        return Inversion(target, request.force, lines, warnings, run, way, inits.images, inits.names, labels,
                         request.batch_size)  # fmt: skip
    return between(request, run, target, lines, way, conditions)


def say_way(way: Way) -> str:
    """Say where the chain goes."""
    return f"{counted(len(way.timesteps), 'timestep')} of ddim between the picture and t = {way.timesteps[0]}"


def turns(conditions: Sequence[Sequence[int]], count: int) -> list[Sequence[int]] | None:
    """List the conditions of `count` pictures, which take turns; None without any."""
    return [conditions[k % len(conditions)] for k in range(count)] if conditions else None


def some(labels: Sequence[Sequence[int]] | None, part: slice) -> Sequence[Sequence[int]] | None:
    """Return the labels of a batch."""
    return None if labels is None else labels[part]


def parts(count: int, size: int) -> list[slice]:
    """Cut `count` rows into batches."""
    return [slice(begin, begin + size) for begin in range(0, count, size)]


@dataclass
class Inversion(Order):
    """The noise of pictures in a file, and a sheet: each picture, its noise, and what a chain makes of that."""

    run: Run
    way: Way
    pictures: Tensor  # [N,C,H,W] in [-1,1]
    names: list[str]
    labels: list[Sequence[int]] | None
    batch_size: int

    @property
    def total(self) -> int:
        return 2 * len(self.way.timesteps) * len(parts(len(self.pictures), self.batch_size))

    unit = "timestep"

    @property
    def noise_file(self) -> Path:
        """Where the noise goes: the target itself, or a file beside the sheet."""
        return self.target if self.target.suffix == ".npz" else self.target.with_name(f"{self.target.stem}-noise.npz")

    def check(self) -> None:
        super().check()
        if self.target.suffix.lower() not in (".npz", *IMAGE_SUFFIXES):
            raise UserError(
                f"`invert` writes a picture or the noise alone. Give `out` a .png or a .npz, not {self.target}."
            )
        if self.noise_file.exists() and not self.force:
            raise UserError(f"{self.noise_file} exists. Give another `out`, or `force` to replace it.")

    def draw(self, advance: Advance, say: Say) -> Drawn:
        sink = distributed.main_first(self.open_sink)
        if sink is None:
            return NOTHING  # the main process draws them all
        with sink:
            noise, back = [], []
            for part in parts(len(self.pictures), self.batch_size):
                labels = some(self.labels, part)
                noise.append(invert(self.run, self.pictures[part], self.way, labels, lambda _: advance(1)))
                back.append(regenerate(self.run, noise[-1], self.way, labels, lambda _: advance(1)))
            x = torch.cat(noise)
            given, found = to_uint8(self.pictures), to_uint8(torch.cat(back))
            write_noise(self.noise_file, x, self.way, self.rows())
            written = [f"{self.noise_file}: the noise, to come back from"]
            normal = x / noise_deviation(self.run.schedule, self.way.timesteps[0])
            if self.noise_file != self.target:
                sheet = np.stack([given, to_uint8(normal / 2), found], axis=1)[:SHOWN]
                headings = [["picture", "its noise", "comes back"]] * len(sheet)
                picture = table(sheet.reshape(-1, *sheet.shape[2:]), headings, self.names[:SHOWN])
                write_image(self.target, picture)
                written.insert(0, f"{self.target}: each picture, its noise, and what comes back")
            nearness = [psnr(*pair) for pair in zip(found, given, strict=True)]
            for line in say_noise(self.names, normal, nearness):
                say(line)
        worst = min(nearness)
        problems = [
            f"a picture comes back with {worst:.1f} dB only. Take more `steps`, or a network that was trained longer."
        ] * (worst < POOR)
        return Drawn(written, found, problems)

    def rows(self) -> Tensor | None:
        """Return the labels as the file keeps them: multi-hot [N,L]."""
        return None if self.labels is None else self.run.labels.multi_hot(self.labels)


def say_noise(names: Sequence[str], noise: Tensor, nearness: Sequence[float]) -> list[str]:
    """Say how near each picture comes back, and whether its noise looks like noise; for many only the range."""
    if len(names) > 8:
        middle = sorted(nearness)[len(nearness) // 2]
        low, high = noise.flatten(1).std(dim=1).aminmax()
        return [
            f"back      {len(names)} pictures with {min(nearness):.1f} dB or more, half of them with {middle:.1f}; "
            f"noise of deviation {low:.3f} to {high:.3f}"
        ]
    return [
        f"{name}: comes back {'exactly' if decibels == np.inf else f'with {decibels:.1f} dB'}; "
        f"its noise has mean {own.mean():.3f} and deviation {own.std():.3f}"
        for name, own, decibels in zip(names, noise, nearness, strict=True)
    ]


# --- files of noise ---------------------------------------------------------------------------------------------------


def write_noise(path: Path, noise: Tensor, way: Way, labels: Tensor | None) -> None:
    """Write noise [N,C,H,W], and how to come back from it, to a .npz."""
    arrays = {
        "noise": noise.float().cpu().numpy(),
        "timesteps": np.array(way.timesteps, np.int64),
        "guidance_scale": np.array([1.0 if way.guidance_scale is None else way.guidance_scale]),
    }
    if labels is not None:
        arrays["labels"] = labels.cpu().numpy()
    write_atomically(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]


def read_noise(path: Path, run: Run) -> tuple[Tensor, Way, list[Sequence[int]] | None]:
    """Read what `write_noise` wrote. Raises UserError for another file, and for noise that does not fit the run."""
    if not path.exists():
        raise UserError(f"{path}: no such file. `invert` writes one.")
    if path.suffix.lower() != ".npz":
        raise UserError(f"{path} is no file of noise. `invert` writes one, a .npz.")
    found = {name: array.whole() for name, array in ((n.removesuffix(".npy"), a) for n, a in open_npz(path).items())}
    if missing := {"noise", "timesteps", "guidance_scale"} - set(found):
        raise UserError(f"{path} is no file of noise: it lacks {min(missing)}. `invert` writes one.")
    noise, timesteps, scale = found["noise"], found["timesteps"], found["guidance_scale"]
    if noise.ndim != 4 or noise.dtype != np.float32 or not len(noise) or not np.isfinite(noise).all():
        raise UserError(
            f"the noise in {path} is {noise.dtype} {list(noise.shape)}, and must be finite float32 [N,C,H,W]."
        )
    own = tuple(noise.shape[1:])
    if own[0] != run.shape[0] or not (own == run.shape or run.any_size):
        raise UserError(f"the noise in {path} is for images of {list(own)}, and this run draws {list(run.shape)}.")
    falls = (
        timesteps.ndim == 1 and timesteps.dtype.kind in "iu" and len(timesteps) and bool((np.diff(timesteps) < 0).all())
    )
    if not falls or timesteps[-1] < 0 or timesteps[0] >= run.schedule.T or scale.shape != (1,) or not scale[0] >= 0:
        raise UserError(f"{path} does not lead down this run's {run.schedule.T} timesteps. Invert the picture again.")
    rows = found.get("labels")
    if rows is not None and rows.shape != (len(noise), len(run.label_names)):
        raise UserError(f"the labels in {path} are of another run: {list(rows.shape)}. Give `labels`.")
    labels = None if rows is None else [np.flatnonzero(row).tolist() for row in rows]
    return torch.from_numpy(noise), Way([int(t) for t in timesteps], float(scale[0])), labels


def from_file(
    request: DrawRequest, run: Run, target: Path, lines: list[str], conditions: Sequence[Sequence[int]]
) -> Order:
    """Decide what is drawn from a file of noise: what it came from, or with other labels something like it."""
    noise, way, labels = read_noise(Path(str(request.noise)), run)
    noise = noise[: request.num]
    if conditions:
        labels = turns(conditions, len(noise))
    if request.guidance_scale is not None:
        way = replace(way, guidance_scale=request.guidance_scale)
    labels = labels and labels[: len(noise)]
    run.labels.check(labels, request.guidance_scale)
    lines += [f"noise     {request.noise}: {counted(len(noise), 'image')}", f"way       {say_way(way)}"]
    return Regeneration(target, request.force, lines, [], run, way, noise, labels, request.batch_size)


@dataclass
class Regeneration(Order):
    """Pictures from noise that is there."""

    run: Run
    way: Way
    noise: Tensor
    labels: list[Sequence[int]] | None
    batch_size: int

    unit = "call"

    @property
    def total(self) -> int:
        return len(self.way.timesteps) * len(parts(len(self.noise), self.batch_size))

    def frames(self, advance: Advance) -> Pixels:
        """Draw all of them: uint8 [N,H,W,3]."""
        return np.concatenate([
            to_uint8(regenerate(self.run, self.noise[part], self.way, some(self.labels, part), lambda _: advance(1)))
            for part in parts(len(self.noise), self.batch_size)
        ])  # fmt: skip

    def draw(self, advance: Advance, say: Say) -> Drawn:
        sink = distributed.main_first(self.open_sink)
        if sink is None:
            return NOTHING
        with sink:
            sink.write(self.frames(advance))
            return finished(sink, sink.finish())


# --- between two ------------------------------------------------------------------------------------------------------


def between(
    request: DrawRequest, run: Run, target: Path, lines: list[str], way: Way, conditions: Sequence[Sequence[int]]
) -> Order:
    """Decide what is drawn between two ends, each a seed or a picture. Raises UserError."""
    assert request.interpolate is not None
    ends = [str(end) for end in request.interpolate]
    seeds = [end.isdecimal() for end in ends]
    if len(conditions) > 1:
        raise UserError("all pictures between two are drawn for the same labels, and here are several. Give one set.")
    if any(seeds) and run.trained_below is not None:
        raise UserError(
            f"this run was trained on the timesteps below {run.trained_below}, so it draws nothing from a seed. "
            "Give two pictures."
        )
    if any(seeds) and request.start_t is not None:
        raise UserError("a seed is pure noise, as at the highest timestep. Leave out `start_t`, or give two pictures.")
    if all(seeds):
        way = replace(way, clip=request.clip, guidance_scale=request.guidance_scale)
    inits = [None if seed else read_inits(run, end, None, 1, request.max_pixels)
             for end, seed in zip(ends, seeds, strict=True)]  # fmt: skip
    shapes = {tuple(each.images.shape[1:]) for each in inits if each is not None} | (
        {run.shape} if any(seeds) else set()
    )
    if len(shapes) > 1:
        raise UserError(f"the two ends have different sizes: {' and '.join(str(list(shape)) for shape in shapes)}.")
    warnings = [doubt for end, each in zip(ends, inits, strict=True) if each for doubt in doubts(run, end, each)]
    names = [f"seed {end}" if seed else os.path.basename(end) for end, seed in zip(ends, seeds, strict=True)]
    num = request.num or FRAMES
    if num < 2:
        raise UserError("a strip between two pictures has 2 frames or more. Give `num` 2 or more.")
    lines += [f"between   {names[0]} and {names[1]}: {num} frames", f"way       {say_way(way)}"]
    if conditions:
        lines.append(f"labels    {labels_in_words(conditions[0], run.label_names)}")
    pictures = [None if each is None else each.images for each in inits]
    return Interpolation(target, request.force, lines, warnings, run, way, ends, names, pictures,
                         list(conditions) or None, num, request.batch_size)  # fmt: skip


@dataclass
class Interpolation(Order):
    """Frames on the way from one noise to another, in a strip; a picture that is an end stands beside its frame."""

    run: Run
    way: Way
    ends: list[str]  # a seed, or the place of a picture
    names: list[str]
    pictures: list[Tensor | None]  # [1,C,H,W]; None for a seed
    labels: list[Sequence[int]] | None  # one row, for all
    num: int
    batch_size: int

    unit = "timestep"

    @property
    def total(self) -> int:
        up = sum(picture is not None for picture in self.pictures)
        return len(self.way.timesteps) * (up + len(parts(self.num, self.batch_size)))

    def noise_of(self, end: str, picture: Tensor | None, advance: Advance) -> Tensor:
        """Find the noise of one end: that of sample 0 of a seed, or what a picture is inverted to."""
        if picture is None:
            noise = randn((1, *self.run.shape), sample_generators(int(end), [0]), like=torch.empty(0))
            return noise_deviation(self.run.schedule, self.way.timesteps[0]) * noise
        return invert(self.run, picture, self.way, self.labels, lambda _: advance(1)).cpu()

    def draw(self, advance: Advance, say: Say) -> Drawn:
        sink = distributed.main_first(self.open_sink)
        if sink is None:
            return NOTHING
        with sink:
            a, b = (self.noise_of(*each, advance) for each in zip(self.ends, self.pictures, strict=True))
            noise = torch.cat([slerp(a, b, share) for share in shares(self.num)])
            labels = self.labels and self.labels * self.num
            frames = Regeneration(self.target, self.force, [], [], self.run, self.way, noise, labels, self.batch_size)
            drawn = frames.frames(advance)
            for name, picture, frame in zip(self.names, self.pictures, (drawn[0], drawn[-1]), strict=True):
                if picture is not None and (near := psnr(frame, to_uint8(picture)[0])) < np.inf:
                    say(f"{name}: its frame is {near:.1f} dB from it")
            sink.write(drawn)
            if sink.kind != "grid":
                return finished(sink, sink.finish())
            write_image(self.target, self.strip(drawn))
            return finished(sink, f"{self.target}: {self.num} frames from {self.names[0]} to {self.names[1]}")

    def strip(self, drawn: Pixels) -> Pixels:
        """Lay the frames in a row, with the share of the way above, and pictures that are ends beside them."""
        shown, names = list(drawn), [f"{share:.2g}" for share in shares(self.num)]
        first, second = self.pictures
        if first is not None:
            shown, names = [to_uint8(first)[0], *shown], [self.names[0], *names]
        if second is not None:
            shown, names = [*shown, to_uint8(second)[0]], [*names, self.names[1]]
        return name_columns(grid(np.stack(shown), columns=len(shown)), names)
