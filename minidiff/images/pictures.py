"""A user's own picture: read with all that it has, changed in its pixels alone, and written back.

Rests on files (what may be opened, and within which memory), sixteen_bits and convert. Elsewhere in the package an
image is uint8 in three channels; here grey stays grey, 16 bits stay 16, and transparency, profile and EXIF data are
kept beside the pixels.
"""

import io
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms
from torch import Tensor

from minidiff.errors import UserError, one_line
from minidiff.images import sixteen_bits
from minidiff.images.budget import DECODING, MAX_PIXELS
from minidiff.images.convert import DeepPixels, Pixels, to_float, to_uint8, to_uint16
from minidiff.images.files import opened, refuse_floats, upright, write_encoded

A_PICTURE_PIXEL = 16  # bytes of a pixel while it is read: two decodes of four, and six or eight of the array
FORMAT = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
QUALITY = 95  # of JPEG and WebP, out of 100
FULL = {8: 255, 16: 65535}

# What a TIFF says about how its pixels are stored, which stands among its EXIF data and fits no other file: sizes,
# bits, strips, tiles, tables, its resolution (our `dpi`), XMP, Photoshop's blocks, and the profile (our `icc`).
STORAGE = {
    *range(254, 260), 262, 263, 264, 265, 266, 273, *range(277, 285), 290, 291, 292, 293, 296, 317, 318, 319, 320, 321,
    *range(322, 326), 330, 332, 338, 339, 340, 341, 347, *range(512, 522), *range(529, 533), 700, 34377, 34675,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture and what stands beside it in its file.

    pixels: uint8 or uint16 [H,W,C], upright; C is 1 for grey and 3 for colour. alpha: of the same type, [H,W], 0 where
    the picture is transparent; None where it has no transparency. icc: the bytes of its colour profile; the numbers in
    `pixels` mean colours by it, and are never converted. exif: date, camera, place, ...; the orientation in it is 1.
    dpi: pixels of an inch, across and down. notes: sentences about what could not be kept.

    Under an alpha of 0 the colours are seen by nobody, and often black, white or left over from elsewhere. Who restores
    the picture should know three things. Such pixels count in a noise estimate as any others, so leave them out. A
    network sees some way across the edge, so colours there differ from those of the same picture without its hole. And
    they are written back as the network leaves them: harmless while alpha is kept.
    """

    pixels: Pixels | DeepPixels
    alpha: Pixels | DeepPixels | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()

    @property
    def bits(self) -> int:
        """Return the bits of a channel, 8 or 16."""
        return 8 * self.pixels.itemsize

    def as_float(self) -> Tensor:
        """Return float32 [C,H,W] in [-1, 1]."""
        return to_float(self.pixels[None])[0]

    def as_seen(self) -> Pixels:
        """Return uint8 [H,W,3]: as the pixels look in 8 bits and three channels, to be shown and compared."""
        seen: Pixels = to_uint8(self.as_float()[None])[0]
        return seen

    def with_pixels(self, image: Tensor) -> "Picture":
        """Return this picture with other pixels: float [C,H,W] in [-1, 1], rounded to the picture's own depth.

        A grey picture takes the mean of three channels. All else is kept; if the size is another, alpha is scaled to
        it. Raises ValueError for another shape.
        """
        channels = self.pixels.shape[2]
        if image.ndim != 3 or image.shape[0] not in (channels, 3):
            raise ValueError(f"with_pixels takes float [{channels},H,W], not {list(image.shape)}")
        if channels == 1:
            image = image.mean(0, keepdim=True)
        pixels = to_uint8(image[None])[0, ..., :channels] if self.bits == 8 else to_uint16(image[None])[0]
        height, width = pixels.shape[:2]
        alpha = self.alpha if self.alpha is None or self.alpha.shape == (height, width) else scaled_alpha(self, pixels)
        exif = None if self.exif is None else exif_bytes(loaded_exif(self.exif), width, height)
        return replace(self, pixels=np.ascontiguousarray(pixels), alpha=alpha, exif=exif)


def scaled_alpha(picture: Picture, pixels: Pixels | DeepPixels) -> Pixels | DeepPixels:
    """Return the alpha of a picture at the size of other pixels: bicubic, rounded and clipped."""
    assert picture.alpha is not None
    image = Image.fromarray(picture.alpha.astype(np.float32))
    scaled = np.asarray(image.resize((pixels.shape[1], pixels.shape[0]), Image.Resampling.BICUBIC))
    rounded: Pixels | DeepPixels = np.clip(np.rint(scaled), 0, FULL[picture.bits]).astype(picture.alpha.dtype)
    return rounded


# --- read ---------------------------------------------------------------------------------------------------------


def read_picture(path: str | Path, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read an image file with all that a `Picture` holds, turned upright as its EXIF data say.

    Palettes are looked up: grey if all their entries are. One bit becomes eight. CMYK and Lab become RGB, by the
    profile of the file if it has one, else for CMYK by the plain formula; as the result is in sRGB the profile is
    dropped, and a note says so. Of several pictures in a file the first is taken, with a note. Text of PNG files and
    XMP are not kept. It takes up to 16 bytes of memory a pixel, of which those of the arrays stay.

    Raises UserError for a file that is missing, damaged, not an image, or declares more than `max_pixels`; and for one
    whose values cannot all be kept: floating-point numbers, 32 bits, 16-bit colour in a PPM. JPEG 2000 and AVIF do not
    say that they have more than 8 bits, of which 8 are read.
    """
    with ExitStack() as held:  # until all that was decoded is gone, with the variables of the function
        return read_all(path, max_pixels, held)


def read_all(path: str | Path, max_pixels: int, held: ExitStack) -> Picture:
    """Do the work of `read_picture`. The memory for decoding is taken into `held`."""
    with opened(path, max_pixels) as file:
        held.enter_context(DECODING.take(A_PICTURE_PIXEL * file.width * file.height))
        notes = []
        if getattr(file, "is_animated", False) and file.format != "MPO":  # which is a JPEG with a preview
            notes.append(f"{path} holds several pictures; the first is taken, and will be written alone.")
        refuse_floats(file, path)
        refuse_what_would_lose(file, path)
        icc = file.info.get("icc_profile") or None
        if file.format == "TIFF":
            with suppress(Exception):  # damaged data are told of later; this part is lost when Pillow closes the file
                file.getexif().get_ifd(ExifTags.IFD.Interop)
        if sixteen_bits.is_deep_colour(file):
            values = deep_colour(file, path, max_pixels)
        elif file.mode.startswith("I"):
            values = deep_grey(upright(file), path)
        else:
            image, converted = plain(upright(file), icc, path)
            icc = None if converted else icc
            notes += converted
            values = np.array(image).reshape(image.height, image.width, -1)
        channels = values.shape[2] - 1 + values.shape[2] % 2  # 1 or 3: an even number has alpha at its end
        alpha = np.ascontiguousarray(values[..., -1]) if values.shape[2] > channels else None
        pixels = np.ascontiguousarray(values[..., :channels])
        exif, damaged = kept_exif(file, path)
        dpi = kept_dpi(file)
        return Picture(pixels, alpha, icc, exif, dpi, (*notes, *damaged))


def refuse_what_would_lose(file: Image.Image, path: str | Path) -> None:
    """Raise UserError for pixels of an opened picture that cannot be read without a loss."""
    tile = next(iter(getattr(file, "tile", [])), None)
    coarse_ppm = tile is not None and tile[0].startswith("ppm") and file.mode == "RGB" and tile[3][-1] > 255
    unknown_form = sixteen_bits.is_deep_colour(file) and not sixteen_bits.can_be_read(file)
    if coarse_ppm or unknown_form:
        raise UserError(
            f"{path} has 16 bits a channel in a form of which only 8 could be read. Save it as a PNG, or as a TIFF "
            "with plain transparency, or none."
        )


def deep_colour(file: Image.Image, path: str | Path, max_pixels: int) -> DeepPixels:
    """Read uint16 [H,W,2, 3 or 4] of an opened picture in colour, or in grey with alpha."""
    if sixteen_bits.raw_modes(file) == {sixteen_bits.GREY_ALPHA}:
        sixteen_bits.under_other_name(file, {sixteen_bits.GREY_ALPHA: "RGBA"})
        return sixteen_bits.grey_alpha(upright(file))
    key = file.info.pop("transparency", None)
    with opened(path, max_pixels) as again:
        sixteen_bits.under_other_name(again, sixteen_bits.LOWER)
        values = sixteen_bits.joined(upright(file), upright(again))
    return values if key is None else with_key(values, key)


def deep_grey(image: Image.Image, path: str | Path) -> DeepPixels:
    """Turn a decoded picture with more than 8 bits of grey into uint16 [H,W,1], or [H,W,2] with alpha."""
    values = np.asarray(image)
    if values.dtype.itemsize > 2 and values.size and (values.min() < 0 or values.max() > 65535):
        raise UserError(f"{path} holds values outside of 0 to 65535. Save it with 8 or 16 bits.")
    grey = values.astype(np.uint16)[..., None]
    if getattr(image, "tag_v2", {}).get(262) == 0:  # a TIFF in which 0 is white; Pillow turns that round in 8 bits only
        grey = 65535 - grey
    key = image.info.get("transparency")
    return grey if key is None else with_key(grey, key)


def with_key(values: DeepPixels, key: Any) -> DeepPixels:
    """Add alpha to uint16 [H,W,C]: 0 where a pixel equals the one colour that a PNG says is transparent."""
    opaque = (values != np.asarray(key, np.uint16)).any(2, keepdims=True)
    return np.concatenate([values, opaque * np.uint16(65535)], axis=2)


def plain(image: Image.Image, icc: bytes | None, path: str | Path) -> tuple[Image.Image, list[str]]:
    """Bring a decoded picture of 8 bits into L, LA, RGB or RGBA. Return it, and a note if colours were converted."""
    notes = []
    if image.mode in ("CMYK", "LAB"):
        name = "Lab" if image.mode == "LAB" else image.mode
        notes.append(f"{path} is in {name}; it was converted to RGB, and its colour profile was dropped.")
        image = in_srgb(image, icc)
    clear = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    grey = image.mode in ("1", "L", "LA", "La") or (image.mode in ("P", "PA") and is_grey_palette(image, icc))
    target = ("LA" if clear else "L") if grey else ("RGBA" if clear else "RGB")
    return image if image.mode == target else image.convert(target), notes


def is_grey_palette(image: Image.Image, icc: bytes | None) -> bool:
    """Tell whether the palette of a picture has greys alone, and no profile for colours."""
    palette = np.array(image.getpalette("RGB") or [0, 0, 0]).reshape(-1, 3)
    return bool((palette == palette[:, :1]).all()) and (icc is None or icc[16:20] == b"GRAY")


def in_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """Convert CMYK by its profile, if that can be used, else by 255 - ink; and Lab as it is defined."""
    with suppress(ImageCms.PyCMSError, OSError, ImportError):  # a damaged profile; a Pillow without LittleCMS
        srgb = ImageCms.createProfile("sRGB")
        if image.mode == "LAB":
            return converted(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), srgb)
        if icc is not None:
            return converted(image, ImageCms.ImageCmsProfile(io.BytesIO(icc)), srgb)
    return image.convert("RGB")


def converted(image: Image.Image, profile: ImageCms.ImageCmsProfile, srgb: Any) -> Image.Image:
    """Convert a picture from a profile to sRGB."""
    result = ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB")
    assert result is not None  # it is, where a picture is converted in place
    return result


# --- beside the pixels --------------------------------------------------------------------------------------------


def loaded_exif(data: bytes) -> Image.Exif:
    """Open EXIF data."""
    exif = Image.Exif()
    exif.load(data)
    return exif


def kept_exif(file: Image.Image, path: str | Path) -> tuple[bytes | None, list[str]]:
    """Return the EXIF data of an upright picture, without what is true of its old file alone; and a note on a loss."""
    try:
        exif = file.getexif()
        for tag in STORAGE & set(exif):
            del exif[tag]
        if set(exif) <= {ExifTags.Base.Orientation}:
            return None, []
        exif[ExifTags.Base.Orientation] = 1
        return exif_bytes(exif, *file.size), []
    except Exception as error:  # there is no end to what damaged data raise
        return None, [f"the EXIF data of {path} are damaged ({one_line(error)}) and were left out."]


def exif_bytes(exif: Image.Exif, width: int, height: int) -> bytes:
    """Write EXIF data, for a picture of this size."""
    sixteen_bits.keep_letters(exif)
    details = exif.get_ifd(ExifTags.IFD.Exif)
    for tag, size in ((ExifTags.Base.ExifImageWidth, width), (ExifTags.Base.ExifImageHeight, height)):
        if tag in details:
            details[tag] = size
    written = exif.tobytes()
    again = loaded_exif(written)
    if ExifTags.IFD.Interop in again:  # Pillow 12 writes what it has read of it among the first tags, too
        del again[ExifTags.IFD.Interop]
        sixteen_bits.keep_letters(again)
        return again.tobytes()
    return written


def kept_dpi(file: Image.Image) -> tuple[float, float] | None:
    """Return the resolution of an opened picture in pixels of an inch; for a TIFF without one Pillow says 1."""
    across, down = file.info.get("dpi", (0, 0))
    across, down = float(across), float(down)
    return (across, down) if 1 < across < 1e6 and 1 < down < 1e6 else None


# --- write --------------------------------------------------------------------------------------------------------


def write_picture(path: str | Path, picture: Picture, flush: bool = True) -> None:
    """Write a picture, whole or not at all, in the format of the suffix, with its profile, EXIF data and resolution.

    PNG and TIFF keep every value. JPEG (quality 95, colours at full resolution) and WebP (quality 95) have 8 bits, and
    WebP no resolution. Raises UserError for another suffix, for what the format cannot hold (transparency in a JPEG),
    and when the file cannot be written. flush: see `files.replacing`.
    """
    path = Path(path)
    form = format_for(path, picture)
    beside: dict[str, Any] = {"icc": picture.icc, "exif": picture.exif, "dpi": picture.dpi}
    try:
        if form == "TIFF":
            encoded = sixteen_bits.as_tiff(stacked(picture), **beside)
        elif form == "PNG" and picture.bits == 16:
            encoded = sixteen_bits.as_png(stacked(picture), **beside)  # type: ignore[arg-type]
        else:
            encoded = by_pillow(picture, form)
    except (ValueError, OSError) as error:  # more pixels a side, or more EXIF data, than the format allows
        raise UserError(f"{path.name} cannot hold the picture ({one_line(error)}). Try {instead(path)}.") from None
    write_encoded(path, encoded, flush)


def format_for(path: Path, picture: Picture) -> str:
    """Return Pillow's name of the format of a suffix. Raises UserError if it cannot hold the picture."""
    form = FORMAT.get(path.suffix.lower())
    if form is None:
        raise UserError(f"a picture is written as {', '.join(FORMAT)}, not as '{path.name}'. Try {instead(path)}.")
    if form == "JPEG" and picture.alpha is not None:
        raise UserError(f"{path.name} cannot hold the picture: a JPEG has no transparency. Try {instead(path)}.")
    if form == "TIFF" and picture.bits == 16 and picture.alpha is not None and picture.pixels.shape[2] == 1:
        raise UserError(
            f"{path.name} cannot hold the picture: few programs read a TIFF of 16-bit grey with transparency. "
            f"Try {instead(path)}."
        )
    return form


def instead(path: Path) -> str:
    """Name the file that could be written in place of another: a PNG, which can hold any picture."""
    return f"{path.stem or 'restored'}.png"


def stacked(picture: Picture) -> Pixels | DeepPixels:
    """Return [H,W,C], with alpha as the last channel if there is any."""
    if picture.alpha is None:
        return picture.pixels
    return np.concatenate([picture.pixels, picture.alpha[..., None]], axis=2)


def by_pillow(picture: Picture, form: str) -> bytes:
    """Encode a picture in 8 bits by Pillow, with the settings of its format."""
    values = stacked(picture)
    if picture.bits == 16:
        values = np.rint(values / 257).astype(np.uint8)
    settings: dict[str, dict[str, Any]] = {
        "PNG": {},
        "JPEG": {"quality": QUALITY, "subsampling": "4:4:4"},
        "WEBP": {"quality": QUALITY, "exact": True},  # exact: colours are kept under alpha 0, too
    }
    options = settings[form]
    beside = {"icc_profile": picture.icc, "exif": picture.exif, "dpi": picture.dpi}
    options |= {name: value for name, value in beside.items() if value is not None}
    buffer = io.BytesIO()
    Image.fromarray(values[..., 0] if values.shape[2] == 1 else values).save(buffer, format=form, **options)
    return buffer.getvalue()
