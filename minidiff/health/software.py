"""Python, and the packages that minidiff needs or can use: which are there, and whether their versions fit.

Rests on what pip has stored about packages; imports none of them.
"""

import platform
import re
import struct
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from typing import NamedTuple

from minidiff.errors import listed
from minidiff.health.findings import FAULT, OK, WARNING, Finding

OLDEST, NEWEST = (3, 10), (3, 13)  # Python; with newer ones nobody has tried
DEVELOPERS = ("test", "dev", "docs", "benchmarks")  # extras that are of no use to others


class Needed(NamedTuple):
    """A package that minidiff asks for."""

    name: str
    wanted: str  # such as >=2.6,!=2.13.0
    extra: str  # the one that asks for it; empty: all do


def check_python(current: tuple[int, ...] = sys.version_info[:3], bits: int = 8 * struct.calcsize("P")) -> Finding:
    """Judge the Python that runs this."""
    seen = f"{'.'.join(map(str, current))}, {bits} bits, {platform.system()} {platform.machine()}"
    told = f"{OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}"
    if current[:2] < OLDEST or bits < 64:
        return Finding("Python", FAULT, seen, f"Use a Python of 64 bits, {told}.")
    if current[:2] > NEWEST:
        return Finding("Python", WARNING, f"{seen}; minidiff was tried with {told}", f"If it fails, use {told}.")
    return Finding("Python", OK, seen)


# --- versions -----------------------------------------------------------------------------------------------------


def numbers(version: str) -> tuple[int, ...]:
    """Return a version as numbers, without what was built: 2.14.1+cu130 is (2, 14, 1)."""
    return tuple(map(int, re.findall(r"\d+", re.split(r"[+a-z-]", version)[0])))


def satisfies(found: str, wanted: str) -> bool:
    """Tell whether a version is as wanted, such as >=2.6,!=2.13.0 or ==0.17.*."""
    for sign, asked in re.findall(r"(>=|<=|==|!=|~=|<|>)\s*([\w.*+]+)", wanted):
        mine, other = numbers(found), numbers(asked.rstrip(".*"))
        if asked.endswith("*"):
            mine = mine[: len(other)]
        longest = max(len(mine), len(other))
        mine, other = (each + (0,) * (longest - len(each)) for each in (mine, other))
        fits = {
            ">=": mine >= other, "<=": mine <= other, "==": mine == other, "!=": mine != other, "<": mine < other,
            ">": mine > other, "~=": mine >= other and mine[: longest - 1] == other[: longest - 1],
        }  # fmt: skip
        if not fits[sign]:
            return False
    return True


def read_needed(lines: list[str] | None = None) -> list[Needed]:
    """List the packages that minidiff asks for, as pip has stored them. Empty if pip does not know minidiff."""
    if lines is None:
        try:
            lines = requires("minidiff") or []
        except PackageNotFoundError:
            return []
    found = []
    for line in lines:
        asked, _, condition = line.partition(";")
        name = re.match(r"[\w.-]+", asked.strip())
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", condition)
        if name is not None and name[0] != "minidiff":
            found.append(Needed(name[0], asked.strip()[len(name[0]) :].strip(" ()"), extra[1] if extra else ""))
    return found


def installed(names: list[str]) -> dict[str, str]:
    """Return the versions of those that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def check_packages(needed: list[Needed], found: Mapping[str, str]) -> Finding:
    """Judge the packages that minidiff cannot do without."""
    always = [each for each in needed if not each.extra]
    if not always:
        mend = "`pip install -e .` in the folder of its source."
        return Finding("packages", WARNING, "pip does not know minidiff, so what it needs is not known", mend)
    wrong = [each for each in always if not satisfies(found.get(each.name, "0"), each.wanted)]
    if wrong:
        seen = listed([f"{each.name} {found.get(each.name, 'is missing')} (wanted: {each.wanted})" for each in wrong])
        return Finding(
            "packages", FAULT, seen, f"pip install {' '.join(repr(each.name + each.wanted) for each in wrong)}"
        )
    others = ", ".join(
        f"{each.name} {found[each.name]}" for each in always if each.name not in ("torch", "torchvision")
    )
    return Finding("packages", OK, others)


def check_extras(needed: list[Needed], found: Mapping[str, str]) -> Finding:
    """Say which extras of the package are installed."""
    extras = sorted({each.extra for each in needed if each.extra} - set(DEVELOPERS))
    there, old, missing = [], [], []
    for extra in extras:
        of_it = [each for each in needed if each.extra == extra]
        if any(each.name not in found for each in of_it):
            missing.append(extra)
        elif wrong := [each for each in of_it if not satisfies(found[each.name], each.wanted)]:
            old += [f"{each.name} {found[each.name]} (wanted: {each.wanted})" for each in wrong]
        else:
            there.append(f"{extra} ({', '.join(f'{each.name} {found[each.name]}' for each in of_it)})")
    seen = f"installed: {', '.join(there) or 'none'}; not: {', '.join(missing) or 'none'}"
    if old:
        return Finding("extras", WARNING, f"{listed(old)}; {seen}", "pip install 'minidiff[NAME]'")
    return Finding("extras", OK, seen + "; `pip install 'minidiff[NAME]'` adds one" * bool(missing))


# --- torch and torchvision ----------------------------------------------------------------------------------------


def vision_for(torch: str) -> str:
    """Return the torchvision that belongs to a torch: since 1.13 and 0.14 their second numbers go side by side."""
    first, second = numbers(torch)[:2]
    return f"0.{second + 15}" if first == 2 else "of the same day"


def torch_of_torchvision() -> str:
    """Return the torch that torchvision was built with, as it says itself, such as ==2.14.1; empty if it does not."""
    try:
        lines = requires("torchvision") or []
    except PackageNotFoundError:
        lines = []
    for line in lines:
        if found := re.match(r"torch\s*\(?\s*(==\s*[\w.+]+)", line):
            return found[1].split("+")[0]
    return ""


def check_torch(torch: str, torchvision: str | None, built_with: str, error: str) -> Iterator[Finding]:
    """Judge torch and torchvision. built_with: the torch that this torchvision asks for. error: of torchvision."""
    yield Finding("torch", OK, torch)
    wanted = vision_for(torch)
    mend = f"pip install 'torchvision=={wanted}.*'" if wanted[0] == "0" else "pip install torch torchvision"
    if torchvision is None:
        yield Finding("torchvision", FAULT, f"it is missing; torch {torch} needs {wanted}", mend)
        return
    pairs = (torch, built_with) if built_with else (torchvision, wanted)
    fits = numbers(pairs[0])[:2] == numbers(pairs[1].lstrip("= "))[:2]  # the third number is for repairs
    if not fits or error:
        belongs = f"which was built for torch {built_with.lstrip('= ')}" if built_with else "which is for another torch"
        seen = f"{torchvision}, {belongs}, and this is torch {torch}" if not fits else f"{torchvision} does not work"
        yield Finding("torchvision", FAULT, f"{seen}: {error}" if error else seen, mend)
        return
    yield Finding("torchvision", OK, f"{torchvision}, built for this torch")
