"""`minidiff sample --init`: which images a chain starts from, and at which timestep."""

from pathlib import Path
from typing import Any

from minidiff.cli.types import say, warn
from minidiff.ddpm import run as pipeline
from minidiff.diffusion.noise_level import start_from
from minidiff.errors import UserError
from minidiff.images.convert import to_float
from minidiff.images.files import image_files, read_images
from minidiff.runs import folder as checkpoint


def starts(
    model: pipeline.Run, init: str, steps: list[int] | None, num: int | None, options: dict[str, Any]
) -> dict[str, Any]:
    """What --init adds to the options: the images, and with `auto` the timestep of each. Says what it found."""
    files = init_files(init, steps)[:num]
    images = to_float(read_images(files, model.shape[1], model.shape[0]))
    size = f"{model.shape[2]}x{model.shape[1]}"
    say(f"init      {init}: {len(images)} at {size}, cut to the centre where not square")
    if options["start_t"] != "auto":
        return {"init": images}
    names = [f"step {step}" for step in steps] if steps else [file.name for file in files]
    found = [start_from(model.schedule, image[None])[:2] for image in images]
    told = [
        f"{name}: noise {sigma:.3f} ({127.5 * sigma:.1f} of 255), so t = {t}"
        for name, (t, sigma) in zip(names[:8], found, strict=False)
    ]
    if len(found) > 8:
        t, sigma = zip(*found[7:], strict=True)
        told[7:] = [f"and {len(t)} more: noise {min(sigma):.3f} to {max(sigma):.3f}, so t = {min(t)} to {max(t)}"]
    for line in told:
        say(f"start     {line}")
    if max(sigma for _, sigma in found) < 3 / 127.5:  # what clean photographs seem to have: up to 2.8 of 255 at 32x32
        warn("hardly any noise was found, so the chain changes little. To repaint a smooth image, try --start-t 100.")
    return {"init": images, "start_t": [t for t, _ in found], "init_mode": options.get("init_mode", "scale")}


def init_files(init: str, steps: list[int] | None) -> list[Path]:
    """The files --init names: an image, those of a folder, or of a DIP run its answers or its output at these steps."""
    folder = Path(init)
    if (folder / checkpoint.CONFIG).is_file():
        from minidiff.dip import job as dip_job

        if dip_job.is_dip_run(folder):
            return [dip_job.saved_step(folder, step) for step in steps] if steps else dip_job.chosen_images(folder)
        kind = checkpoint.read_config(folder)["kind"]
        raise UserError(f"{init} is a {kind} run, and no image to start from. Give an image, a folder, or a dip run.")
    if steps:
        raise UserError(f"--init-steps needs a dip run as --init, {init} is none. `minidiff dip fit` makes one.")
    return image_files(folder) if folder.is_dir() else [folder]
