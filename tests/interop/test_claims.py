"""What is said about a checkpoint of diffusers, compared with what diffusers does with it."""

import json
import re
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers_folders import SMALL, edit, peer, save
from diffusers_weights import randomise
from safetensors.torch import load_file
from torch import Tensor, nn

import minidiff
from minidiff import cli, load
from minidiff.diffusion.denoiser import denoiser
from minidiff.diffusion.predictions import PREDICTIONS
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import UserError
from minidiff.interop import scheduler as scheduler_config
from minidiff.interop.scheduler import read_diffusion, sampling_notes

ONE_LAYER = SMALL | {"layers_per_block": 1}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---- how the predicted image is clipped ----

T_CALLED, STEPS = 900, 10  # the first of ten `leading` timesteps
SCHEDULE = Schedule.linear(1000, 1e-4, 0.02)


def guesses(size: float) -> tuple[Tensor, Tensor, Tensor]:
    """x_t, the eps that the network predicts there, and the image [3,3,8,8] that it so predicts: `size` wide."""
    generator = torch.Generator().manual_seed(0)
    x0 = size * torch.randn(3, 3, 8, 8, generator=generator, dtype=torch.float64)
    eps = torch.randn(3, 3, 8, 8, generator=generator, dtype=torch.float64)
    (level,) = SCHEDULE.levels([T_CALLED])
    return level.signal * x0 + level.noise * eps, eps, x0


def used_there(scheduler: Any, size: float) -> Tensor:
    """Ask diffusers which image it goes on with, where the network predicts one of this size."""
    x, eps, _ = guesses(size)
    scheduler.alphas_cumprod = SCHEDULE.alphas_cumprod  # in float64: its own table is float32
    scheduler.set_timesteps(STEPS)
    if hasattr(scheduler, "convert_model_output"):  # DPM-Solver and UniPC
        scheduler.sigmas = scheduler.sigmas.double()
        scheduler.sigmas[0] = SCHEDULE.levels([T_CALLED])[0].sigma
        scheduler._step_index = 0
        found = scheduler.convert_model_output(eps, sample=x)
        by_eps = scheduler.config.get("algorithm_type") == "dpmsolver" or not scheduler.config.get("predict_x0", True)
        if by_eps:
            (level,) = SCHEDULE.levels([T_CALLED])  # it goes on with the eps of that image
            found = (x - level.noise * found) / level.signal
        return found
    if isinstance(scheduler, diffusers.PNDMScheduler):  # its first step is DDIM's, from which the image follows
        (below,) = SCHEDULE.levels([T_CALLED - 1000 // STEPS])
        return (scheduler.step(eps, T_CALLED, x).prev_sample - below.noise * eps) / below.signal
    return scheduler.step(eps, T_CALLED, x).pred_original_sample


def used_here(clip: bool | float, size: float) -> Tensor:
    """Ask for the image that minidiff's samplers go on with under this `clip`."""
    x, eps, _ = guesses(size)
    (level,) = SCHEDULE.levels([T_CALLED])
    return denoiser(lambda x, t: eps, PREDICTIONS["eps"], clip)(x, level)[0]


DPM, UNIPC = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"
THRESHOLD = {"thresholding": True}
CLIPPINGS: dict[str, tuple[str, dict[str, Any], str | None]] = {  # class, options, what must be said
    "ddpm": ("DDPMScheduler", {}, None),
    "ddim": ("DDIMScheduler", {}, None),
    "ddpm, a threshold of 1": ("DDPMScheduler", THRESHOLD, None),
    "ddim, a threshold of 1": ("DDIMScheduler", THRESHOLD | {"clip_sample": False}, None),
    "dpm, a threshold of 1": (DPM, THRESHOLD, None),
    "old dpm, a threshold of 1": (DPM, THRESHOLD | {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
                                  None),
    "unipc, a threshold of 1": (UNIPC, THRESHOLD | {"dynamic_thresholding_ratio": 0.5}, None),
    "ddpm, not clipped": ("DDPMScheduler", {"clip_sample": False}, "does not clip"),
    "ddim, not clipped": ("DDIMScheduler", {"clip_sample": False}, "does not clip"),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}, "never clips"),
    "dpm": (DPM, {}, "never clips"),
    "dpm with noise": (DPM, {"algorithm_type": "sde-dpmsolver++"}, "never clips"),
    "old dpm": (DPM, {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}, "never clips"),
    "unipc": (UNIPC, {}, "never clips"),
    "unipc by eps": (UNIPC, THRESHOLD | {"predict_x0": False, "sample_max_value": 5.0}, "never clips"),
    "ddpm, clipped to 2": ("DDPMScheduler", {"clip_sample_range": 2.0}, "to ±2"),
    "ddim, clipped to 0.5": ("DDIMScheduler", {"clip_sample_range": 0.5}, "to ±0.5"),
    "ddpm, thresholded": ("DDPMScheduler", THRESHOLD | {"sample_max_value": 3.0}, "without that limit"),
    "ddim, thresholded": ("DDIMScheduler", THRESHOLD | {"sample_max_value": 3.0, "dynamic_thresholding_ratio": 0.9},
                          "without that limit"),
    "dpm, thresholded": (DPM, THRESHOLD | {"sample_max_value": 3.0}, "without that limit"),
    "unipc, thresholded": (UNIPC, THRESHOLD | {"sample_max_value": 3.0}, "without that limit"),
    "ddpm, all of it": ("DDPMScheduler", THRESHOLD | {"sample_max_value": 3.0, "dynamic_thresholding_ratio": 1.0},
                        "no option does so"),
    "ddpm, stretched": ("DDPMScheduler", THRESHOLD | {"sample_max_value": 0.5}, "at ±0.5 and stretches it to ±1"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*algorithm_type dpmsolver is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers with numpy 2
@pytest.mark.parametrize("name", CLIPPINGS)
def test_what_is_said_of_clipping_is_what_the_peer_does(name):
    """Where nothing is said the default does the same; where an option is named it does; else none does.

    For predicted images that are just too wide (quantiles of about 1.4 to 2) and far too wide (7 to 10).
    Fails when a threshold of 1 is said to need `--threshold`, when a class that never clips is passed over, or when a
    quantile is named as the same although the peer has a limit.
    """
    kind, options, expected = CLIPPINGS[name]
    scheduler = getattr(diffusers, kind)(**options)
    notes = sampling_notes(json.loads(scheduler.to_json_string()))
    assert len(notes) == (expected is not None) and (expected is None or expected in notes[0])
    named = re.search(r"`clip` (False|[\d.]+)", notes[0]) if notes else None
    clip = True if named is None else False if named[1] == "False" else float(named[1])
    for size in (0.7, 3.5):
        there = used_there(scheduler, size)
        image = guesses(size)[2]
        same = torch.allclose(there, used_here(clip, size), rtol=0, atol=1e-5)
        if notes:
            assert not torch.allclose(there, used_here(True, size), rtol=0, atol=1e-2)  # or nothing need be said
        if expected is None or (named and "limit" not in notes[0]):
            assert same
        elif named:
            assert same is (size < 1)
        elif limit := re.search(r"to ±([\d.]+), and", notes[0]):
            torch.testing.assert_close(there, image.clamp(-float(limit[1]), float(limit[1])), rtol=0, atol=1e-5)
        elif "stretches" in notes[0]:
            torch.testing.assert_close(there, image.clamp(-0.5, 0.5) / 0.5, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", scheduler_config.SCHEDULERS)
def test_the_tables_say_which_class_has_which_option(name):
    """Read off the peer's own constructors, with their defaults."""
    default = dict(getattr(diffusers, name)().config)
    assert (name in scheduler_config.CLIPS) is ("clip_sample" in default)
    assert (name in scheduler_config.THRESHOLDS) is ("thresholding" in default)
    assert (name in scheduler_config.RESCALES) is ("rescale_betas_zero_snr" in default)
    for key in scheduler_config.CLIPPING.keys() & default.keys():
        assert default[key] == scheduler_config.CLIPPING[key], key


def test_a_key_that_the_class_ignores_is_said():
    """diffusers keeps keys of a DDIMScheduler in the file of the PNDMScheduler that is made of it."""
    ddim = diffusers.DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction", thresholding=True)
    stored = json.loads(diffusers.PNDMScheduler.from_config(ddim.config, skip_prk_steps=True).to_json_string())
    assert stored["rescale_betas_zero_snr"] and stored["thresholding"]
    notes = sampling_notes(stored)
    assert "ignores rescale_betas_zero_snr" in notes[0] and "never clips" in notes[1]
    assert diffusers.PNDMScheduler.from_config(stored).alphas_cumprod[-1] > 1e-5  # so it does
    assert read_diffusion(stored)["zero_terminal_snr"]


@pytest.mark.parametrize(
    "wrong", [{"clip_sample": "yes"}, {"clip_sample_range": "1"}, {"sample_max_value": 0}, {"thresholding": 1},
              {"dynamic_thresholding_ratio": None}, {"clip_sample_range": 1e999}],
    ids=str,
)  # fmt: skip
def test_values_of_the_wrong_kind_are_one_line(wrong):
    (key,) = wrong
    with pytest.raises(UserError, match=f"{key} is"):
        read_diffusion({"_class_name": "DDPMScheduler"} | wrong)


def test_the_two_small_variances_are_one():
    """fixed_small_log is read as fixed_small: the peer's noise is the same to its float32."""
    x, eps, _ = guesses(1.0)
    found = []
    for kind in ("fixed_small", "fixed_small_log", None):
        scheduler = diffusers.DDPMScheduler(variance_type=kind)
        scheduler.set_timesteps(STEPS)
        generator = torch.Generator().manual_seed(0)
        found.append(scheduler.step(eps, T_CALLED, x, generator=generator).prev_sample)
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, rtol=0, atol=1e-6)


# ---- the timesteps ----


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler"])
def test_the_timesteps_of_both_are_one_list_under_the_same_spacing(name, spacing):
    """docs/interop.md says so. steps_offset, which no option has, moves `leading` up."""
    for steps in (10, 20, 50, 1000):
        there = getattr(diffusers, name)(timestep_spacing=spacing)
        there.set_timesteps(steps)
        assert there.timesteps.tolist() == SCHEDULE.timesteps(steps, None, spacing)
    moved = getattr(diffusers, name)(timestep_spacing="leading", steps_offset=1)
    moved.set_timesteps(10)
    assert [t - 1 for t in moved.timesteps.tolist()] == SCHEDULE.timesteps(10, None, "leading")


@pytest.mark.parametrize("name", ["DDIMScheduler", "PNDMScheduler"])
def test_set_alpha_to_one_false_leaves_the_noise_of_the_first_timestep(name):
    """docs/interop.md gives its deviation, 0.01, and says that it is the default of PNDM."""
    scheduler = getattr(diffusers, name)(**{"set_alpha_to_one": False} if name == "DDIMScheduler" else {})
    assert float(1 - scheduler.final_alpha_cumprod) ** 0.5 == pytest.approx(0.01, rel=1e-3)
    assert SCHEDULE.levels([0])[0].noise == pytest.approx(0.01, rel=1e-3)


# ---- labels ----


@pytest.fixture()
def table(tmp_path: Path) -> Path:
    return save(peer(ONE_LAYER | {"num_class_embeds": 10}), tmp_path / "table")


@pytest.fixture()
def linear(tmp_path: Path) -> Path:
    """The lab's layer, which takes several labels at once."""
    network = peer(ONE_LAYER)
    network.class_embedding = nn.Linear(10, 64)
    randomise(network)
    return save(network, tmp_path / "linear")


def draw(*options: str) -> int:
    return cli.run(["sample", *options, "--steps", "2", "-n", "2", "--out", "out.npz", "--force"])


@pytest.mark.parametrize("kind", ["table", "linear"])
def test_a_network_that_draws_nothing_without_labels_says_so(kind, request, capsys):
    """So does the peer's, which raises; the import's line, the error and `info` agree, and name the labels."""
    folder = request.getfixturevalue(kind)
    with pytest.raises(ValueError, match="class_labels should be provided"):
        network = diffusers.UNet2DModel(**ONE_LAYER, num_class_embeds=10)
        network(torch.zeros(1, 3, 16, 16), 0)
    assert cli.run(["import", str(folder), "run"]) == 0
    many = "one" if kind == "table" else "any number of them"
    said = capsys.readouterr().out
    assert f"labels    10, {many} an image; it draws nothing without" in said and "given none" not in said
    assert draw("run") == 1
    assert re.search("draws nothing without labels. Give --labels, .* of the numbers 0 to 9", capsys.readouterr().err)
    assert cli.run(["info", "run"]) == 0
    assert f"10, {many} an image" in capsys.readouterr().out
    with pytest.raises(UserError, match="draws nothing without labels"):
        next(iter(load(folder).sample(2)))


def test_a_table_takes_one_label_for_an_image(table, capsys):
    """Two are refused on the command line, in a file and from a script; one is the row of the peer's table."""
    assert draw(str(table), "--labels", "3", "--labels", "4") == 0
    assert draw(str(table), "--labels", "3,4") == 1
    assert "one label, but '3, 4' are 2" in capsys.readouterr().err
    Path("order.json").write_text('[["1"], ["5", "7"]]')
    assert draw(str(table), "--labels-file", "order.json") == 1
    assert "'5, 7' are 2" in capsys.readouterr().err
    run = load(table)
    for labels in ([[3, 4]], torch.eye(10)[[3]] + torch.eye(10)[[4]], [[3], []], torch.zeros(1, 10)):
        with pytest.raises(UserError, match="an image of this run has one label"):
            next(iter(run.sample(2, labels=labels)))
    theirs = peer(ONE_LAYER | {"num_class_embeds": 10})
    x, t = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([500, 500])
    with torch.no_grad():
        expected = theirs(x, t, class_labels=torch.tensor([3, 4])).sample
        there = run.denoiser(torch.eye(10)[[3, 4]])(x, t)
    torch.testing.assert_close(there, expected, rtol=0, atol=1e-4)
    assert (expected[0] - theirs(x, t, class_labels=torch.tensor([4, 4])).sample[0]).abs().max() > 1e-2


def test_a_linear_layer_still_takes_several(linear):
    assert draw(str(linear), "--labels", "3,4") == 0


def test_guidance_needs_a_label_that_means_none(table, linear, capsys):
    for folder, why in ((table, "nothing says that one of them means no class"), (linear, "draws nothing without")):
        assert draw(str(folder), "--labels", "3", "--guidance", "3") == 1
        said = capsys.readouterr().err
        assert why in said and "Leave out --guidance" in said
        assert draw(str(folder), "--labels", "3", "--guidance", "1") == 0


def test_a_table_imported_before_still_opens(table):
    """Without the two keys that say more about it."""
    assert cli.run(["import", str(table), "run"]) == 0
    stored = json.loads(Path("run/config.json").read_text())
    del stored["source"]["one_hot"], stored["source"]["weights"]
    Path("run/config.json").write_text(json.dumps(stored))
    assert draw("run", "--labels", "3") == 0
    assert load("run").labels.names == [str(number) for number in range(10)]


# ---- what an export says ----


def test_an_exported_table_is_called_as_the_note_says(table, capsys):
    """A DDPMPipeline cannot; its unet can, with class_labels."""
    assert cli.run(["export", str(table), "back"]) == 0
    assert "gives no class_labels, which this network wants: call its unet" in capsys.readouterr().out
    pipeline = diffusers.DDPMPipeline.from_pretrained("back")
    with pytest.raises(ValueError, match="class_labels should be provided"):
        pipeline(num_inference_steps=1)
    x, three = torch.zeros(1, 3, 16, 16), torch.tensor([3])
    expected = peer(ONE_LAYER | {"num_class_embeds": 10})(x, 5, class_labels=three).sample
    torch.testing.assert_close(pipeline.unet(x, 5, class_labels=three).sample, expected, rtol=0, atol=1e-5)


def test_an_exported_linear_layer_is_set_as_the_note_says(linear, capsys):
    assert cli.run(["export", str(linear), "back"]) == 0
    assert "set unet.class_embedding = torch.nn.Linear(10, 64) and load again" in capsys.readouterr().out
    unet = diffusers.UNet2DModel.from_pretrained("back/unet")
    unet.class_embedding = nn.Linear(10, 64)
    unet.load_state_dict(load_file("back/unet/diffusion_pytorch_model.safetensors"))
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.eye(10)[[3]] + torch.eye(10)[[4]]
    with torch.no_grad():
        torch.testing.assert_close(
            unet(x, 5, class_labels=labels).sample, load(linear).denoiser(labels)(x, torch.tensor([5])),
            rtol=0, atol=1e-4,
        )  # fmt: skip


def test_an_export_says_how_the_new_scheduler_clips(table, capsys):
    edit(table / "scheduler" / "scheduler_config.json", _class_name="PNDMScheduler")
    assert minidiff.export_run(table, "back")[0] == (
        "its scheduler, a PNDMScheduler, never clips the predicted image; the DDPMScheduler written here clips it to ±1"
    )
    assert diffusers.DDPMPipeline.from_pretrained("back").scheduler.config.clip_sample
