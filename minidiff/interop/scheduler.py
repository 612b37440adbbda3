"""Translate the `scheduler_config.json` of diffusers, and back: the noise schedule, and what the network predicts.

As in layers.py, minidiff has the setting of a key, or the key has no effect here, or a UserError names it. How that
scheduler would sample is not part of a run; `sampling_notes` tells where it differs. Rests on diffusion.schedules and
layers.
"""

import json
from collections.abc import Callable, Mapping
from math import inf
from pathlib import Path
from typing import Any

import torch

from minidiff.diffusion.schedules import Schedule
from minidiff.errors import UserError, shown
from minidiff.interop.layers import alike, check_class, few, unknown_keys

SCHEDULERS = ("DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler",
              "UniPCMultistepScheduler")  # fmt: skip
SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
BUILD: dict[str, Callable[..., Schedule]] = {
    "linear": Schedule.linear, "scaled_linear": Schedule.scaled_linear, "squaredcos_cap_v2": Schedule.cosine,
}  # fmt: skip
PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
VARIANCES = {"fixed_small": "fixed_small", "fixed_small_log": "fixed_small", "fixed_large": "fixed_large"}
TRAINED = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear",
           "trained_betas": None, "prediction_type": "epsilon", "variance_type": "fixed_small",
           "rescale_betas_zero_snr": False, "predict_epsilon": True}  # fmt: skip
# How that scheduler would sample. Here that is chosen when sampling, so these keys are known and not kept.
SAMPLING = {
    "clip_sample", "clip_sample_range", "thresholding", "dynamic_thresholding_ratio", "sample_max_value",
    "timestep_spacing", "steps_offset", "set_alpha_to_one", "skip_prk_steps", "solver_order", "algorithm_type",
    "solver_type", "lower_order_final", "euler_at_final", "final_sigmas_type", "lambda_min_clipped",
    "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "predict_x0",
    "disable_corrector", "solver_p", "sigma_min", "sigma_max", "tensor_format", "timestep_values",
}  # fmt: skip
# These change what the network's timesteps and outputs mean. With other values it is another kind of diffusion.
FLOW: dict[str, tuple[object, ...]] = {
    "use_flow_sigmas": (False,), "use_dynamic_shifting": (False,), "flow_shift": (1, None), "shift_terminal": (None,),
    "time_shift_type": ("exponential", "linear"),
}  # fmt: skip


def read_diffusion(config: Mapping[str, Any], source: str | Path = "scheduler_config.json") -> dict[str, Any]:
    """Turn a scheduler_config.json into the `diffusion` of a run's config.json. Raises UserError."""
    check_class(config, SCHEDULERS, source)
    said = {key: config.get(key, default) for key, default in TRAINED.items()}
    said["variance_type"] = said["variance_type"] or "fixed_small"  # DPM-Solver's null: it never asks
    if said["predict_epsilon"] is False and "prediction_type" not in config:  # the name it had in 2022
        said["prediction_type"] = "sample"
    wrong = [f"{key} is {json.dumps(said[key])}" for key in ("num_train_timesteps", "beta_start", "beta_end")
             if not alike(said[key], TRAINED[key])]  # fmt: skip
    tables = {"beta_schedule": SCHEDULES, "prediction_type": PREDICTIONS, "variance_type": VARIANCES}
    for key, table in tables.items():
        if not isinstance(said[key], str) or said[key] not in table:
            why = ": the network would have to predict its variance too" if "learned" in str(said[key]) else ""
            wrong.append(f"{key} is {json.dumps(said[key])}{why} (known: {', '.join(table)})")
    wrong += [f"{key} is {json.dumps(config[key])}" for key, known in FLOW.items()
              if config.get(key, known[0]) not in known]  # fmt: skip
    if not isinstance(said["rescale_betas_zero_snr"], bool):
        wrong.append(f"rescale_betas_zero_snr is {json.dumps(said['rescale_betas_zero_snr'])}")
    elif said["rescale_betas_zero_snr"] and said["prediction_type"] == "epsilon":
        wrong.append("eps is predicted where there is no signal (rescale_betas_zero_snr with epsilon)")
    wrong += [f"{key} is {json.dumps(config[key])}" for key, default in CLIPPING.items()
              if not allowed(config.get(key, default), default)]  # fmt: skip
    wrong += unknown_keys(config, {*TRAINED, *SAMPLING, *FLOW})
    if wrong:
        raise UserError(f"{source} describes a diffusion that minidiff does not have: {few(wrong)}. Use diffusers.")
    return {
        **read_schedule(said, source),
        "prediction": PREDICTIONS[said["prediction_type"]],
        "min_snr_gamma": None,
        "zero_terminal_snr": bool(said["rescale_betas_zero_snr"]),
        "variance": VARIANCES[said["variance_type"]],
    }


def read_schedule(said: Mapping[str, Any], source: str | Path) -> dict[str, Any]:
    """Find the schedule that a scheduler_config.json means, without the zero-SNR rescaling. Raises UserError.

    said: the keys of TRAINED. A list of trained_betas goes before a name, as in diffusers.
    """
    name, timesteps, betas = said["beta_schedule"], said["num_train_timesteps"], said["trained_betas"]
    ends = {end: said[end] for end in ("beta_start", "beta_end")}
    if betas is not None:
        if not isinstance(betas, list) or not alike(betas, [0.0]):
            raise UserError(f"{source}: trained_betas is {shown(betas)}, and not a list of numbers. Mend it.")
        if len(betas) != timesteps:
            raise UserError(f"{source} has {len(betas)} trained_betas for {timesteps} timesteps. Mend it.")
        name, ends = name_betas(betas), {"beta_start": betas[0], "beta_end": betas[-1]}
    ends = ends if name in ("linear", "scaled_linear") else {}
    try:
        Schedule.from_betas(betas) if name is None else BUILD[name](timesteps, **ends)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    none = {"beta_start": None, "beta_end": None}
    if name is None:
        return {"schedule": "betas", "timesteps": timesteps, **none, "betas": betas}
    return {"schedule": SCHEDULES[name], "timesteps": timesteps, **none, **ends}


def allowed(value: Any, default: bool | float) -> bool:
    """Tell whether a value of CLIPPING has the type of its default and, if it is a number, is positive and finite."""
    return alike(value, default) and (isinstance(default, bool) or 0 < value < inf)


def name_betas(betas: list[float]) -> str | None:
    """Find the beta_schedule that a list of betas is, up to the rounding of float32; None if it is none of them."""
    given = torch.tensor(betas, dtype=torch.float64)
    if not bool(((given > 0) & (given < 1)).all()):
        return None
    for name, build in BUILD.items():
        ends = () if name == "squaredcos_cap_v2" else (betas[0], betas[-1])
        if torch.allclose(build(len(betas), *ends).betas, given, rtol=1e-6):
            return name
    return None


# Which classes clip the predicted image, unless told not to, and which can threshold it or rescale the betas. In a file
# of another class these keys, left over from the scheduler that it was made of, have no effect.
CLIPS = ("DDPMScheduler", "DDIMScheduler")
THRESHOLDS = (*CLIPS, "DPMSolverMultistepScheduler", "UniPCMultistepScheduler")
RESCALES = (*CLIPS, "DPMSolverMultistepScheduler", "UniPCMultistepScheduler")
CLIPPING: dict[str, bool | float] = {
    "clip_sample": True, "clip_sample_range": 1.0, "thresholding": False, "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0, "predict_x0": True,
}  # fmt: skip


def sampling_notes(config: Mapping[str, Any]) -> list[str]:
    """Tell where this scheduler treats the predicted image otherwise than `minidiff sample`, which clips it to ±1.

    Each note names the option that does what the scheduler does, if there is one. The tests compare both chains.
    """
    name = config["_class_name"]
    said: dict[str, Any] = {key: config.get(key, default) for key, default in CLIPPING.items()}
    its, notes = f"its scheduler, a {name},", list[str]()
    if config.get("rescale_betas_zero_snr") and name not in RESCALES:
        notes.append(f"{its} ignores rescale_betas_zero_snr: it is read as what the network was trained on")
    if said["thresholding"] and name in THRESHOLDS and (said["predict_x0"] or name != "UniPCMultistepScheduler"):
        return notes + threshold_notes(its, said["dynamic_thresholding_ratio"], said["sample_max_value"])
    if name not in CLIPS:
        notes.append(f"{its} never clips the predicted image: with `clip` False `minidiff sample` does not either")
    elif not said["clip_sample"]:
        notes.append(f"{its} does not clip the predicted image: with `clip` False `minidiff sample` does not either")
    elif said["clip_sample_range"] != 1:
        notes.append(f"{its} clips the predicted image to ±{said['clip_sample_range']:g}, and `minidiff sample` to ±1")
    return notes


def threshold_notes(its: str, ratio: float, most: float) -> list[str]:
    """Tell what dynamic thresholding does there. Its limit `most` is 1 by default, which is plain clipping to ±1."""
    if most == 1:
        return []
    if most < 1:  # torch's clamp(s, 1, most) is `most` then
        return [f"{its} cuts the predicted image at ±{most:g} and stretches it to ±1: `minidiff sample` cuts it at ±1"]
    does = f"{its} divides the predicted image by its quantile {ratio:g}, if that is above 1, and by {most:g} at most"
    return [f"{does}: `clip` {ratio:g} does so without that limit" if 0 < ratio < 1 else f"{does}: no option does so"]


def write_diffusion(diffusion: Mapping[str, Any], schedule: Schedule) -> dict[str, Any]:
    """Write a run's diffusion as the scheduler_config.json of a DDPMScheduler. schedule: before zero-SNR rescaling."""
    theirs = {ours: name for name, ours in SCHEDULES.items()}
    config: dict[str, Any] = {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": diffusion["timesteps"],
        "beta_schedule": theirs.get(diffusion["schedule"], "linear"),
        "beta_start": float(schedule.betas[0]),
        "beta_end": float(schedule.betas[-1]),
        "trained_betas": None,
        "prediction_type": {ours: name for name, ours in PREDICTIONS.items()}[diffusion["prediction"]],
        "variance_type": diffusion["variance"],
        "rescale_betas_zero_snr": diffusion["zero_terminal_snr"],
        "clip_sample": True,
        "clip_sample_range": 1.0,
        "thresholding": False,
        # With fixed_large, diffusers adds noise after the last call unless it is at t = 0, where `leading` ends.
        "timestep_spacing": "leading" if diffusion["variance"] == "fixed_large" else "trailing",
        "steps_offset": 0,
    }
    if diffusion["schedule"] == "cosine":
        config |= {"beta_start": 1e-4, "beta_end": 0.02}  # diffusers does not use them
    elif not torch.allclose(BUILD[config["beta_schedule"]](schedule.T, config["beta_start"], config["beta_end"]).betas,
                            schedule.betas, rtol=1e-9):  # fmt: skip
        config["trained_betas"] = schedule.betas.tolist()  # no name gives them; or some were held under 0.999
    return config
