"""Small studies for the tests: requests, made-up times, and stand-ins for the processes of cells."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from minidiff.files import write_json
from minidiff.metrics.config import FeatureIdentity
from minidiff.metrics.features import choose
from minidiff.studies.config import Draft, Settings, Study, StudyRequest, Times
from minidiff.studies.planning import complete, decide
from minidiff.studies.study import RESULT, STATISTICS, folder_of, keep_study

INCEPTION = FeatureIdentity("inception", "pytorch-fid", 2048, "0" * 64)
TIMES = Times(
    steps={"ddpm": 9, "wgan": 8}, seconds_per_step={"ddpm": 0.5, "wgan": 0.25},
    seconds_per_sample={"ddpm": 0.1, "wgan": 0.01}, seconds_per_image=0.01, images=48, network=INCEPTION,
)  # fmt: skip


def made_up(settings: Settings) -> Times:
    """Return times as if they had been measured for these models, in this feature network."""
    return replace(
        TIMES,
        steps={model: TIMES.steps[model] for model in settings.models},
        seconds_per_step={model: TIMES.seconds_per_step[model] for model in settings.models},
        seconds_per_sample={model: TIMES.seconds_per_sample[model] for model in settings.models},
        network=INCEPTION if settings.features == "inception" else choose(settings.features).identity,
    )


def asked(**more: Any) -> StudyRequest:
    """Ask for a study of two models on small scenes, two steps each."""
    usual = {"datasets": ("shapes",), "models": ("wgan", "ddpm"), "num": 20, "image_size": 16, "steps": 2}
    return StudyRequest(**{**usual, **more})


def drafted(folder: Path, request: StudyRequest, device: str = "cpu") -> Draft:
    """Return the draft of a request that is not complete."""
    draft = decide(folder, request, device)
    assert isinstance(draft, Draft)
    return draft


def planned(folder: Path, times: Times = TIMES, **more: Any) -> Study:
    """Begin a study whose times are made up. Its feature network is not held to any weights."""
    study = replace(complete(drafted(folder, asked(**more)), times), network=None)
    keep_study(folder, study)
    return study


class Inside:
    """Stands in for a process: the cell is run here, when it is started."""

    stdin = stdout = None

    def __init__(self, arguments: list[str], device: str, share: int = 1, **streams: Any) -> None:
        module = import_module(streams.get("module", "minidiff.studies.cell"))
        self.returncode = module.main([*arguments, device])

    def poll(self) -> int:
        return self.returncode

    wait = kill = terminate = poll


class Pretended(Inside):
    """Stands in for a process that ends when it is asked the third time, and then leaves what it should."""

    at_once: ClassVar[list[str]]
    most: ClassVar[list[list[str]]]
    code = 0

    def __init__(self, arguments: list[str], device: str, share: int = 1, **streams: Any) -> None:
        self.folder, self.name, self.device, self.left = Path(arguments[0]), arguments[1], device, 3
        self.at_once.append(device)
        self.most.append(sorted(self.at_once))

    def poll(self) -> int | None:  # type: ignore[override]
        self.left -= 1
        if self.left > 0:
            return None
        if self.left == 0:
            self.at_once.remove(self.device)
            place = folder_of(self.folder, self.name)
            if self.code:
                return self.code
            if self.name.count(".") == 1:
                (place / STATISTICS).touch()
            else:
                write_json(place / RESULT, {"metrics": {}})
        return self.code

    def kill(self) -> None:  # type: ignore[override]
        pass

    def wait(self, patience: float = 0) -> None:  # type: ignore[override]
        pass

    terminate = kill  # type: ignore[assignment]

    @property
    def returncode(self) -> int:
        return self.code
