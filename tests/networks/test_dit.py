"""The DiT against diffusers' with the same weights, and against what its own docstrings promise."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers_weights import randomise
from torch import Tensor

import minidiff
from minidiff import cli
from minidiff.ddpm.presets import DDPM_PRESETS
from minidiff.errors import UserError
from minidiff.files import read_json, write_json
from minidiff.networks.configs import DiTConfig
from minidiff.networks.dit import DiT, modulate, patchify, positions, unpatchify
from minidiff.runs.folder import read_tensors
from minidiff.training.muon import hidden_weights

SMALL: dict[str, Any] = {"image_size": 16, "in_channels": 3, "width": 16, "depth": 2, "heads": 2}
ARGUMENTS = {"width": 16, "depth": 2, "heads": 2}  # of a run
OPTIONS: dict[str, Any] = {"preset": "cpu", "network": "dit", "network_arguments": ARGUMENTS, "image_size": 16,
                           "sample_every": 60, "steps": 4, "batch_size": 4, "device": "cpu"}  # fmt: skip


def drawn(seed: int = 0, **changes: Any) -> DiT:
    """A DiT with random weights, its gates too."""
    network = DiT(**SMALL | changes)
    randomise(network, seed)
    return network.eval()


def batch(n: int = 2, channels: int = 3, size: int = 16) -> tuple[Tensor, Tensor]:
    """Images, and timesteps with both ends among them."""
    x = torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(1))
    return x, torch.tensor([999, 0, 437, 20])[:n]


# ---- against diffusers, and the paper ----


def theirs(ours: DiT, classes: int) -> Any:
    """The peer with our weights. Its table of classes has our columns, and no label (its last row) is no addition.

    Its timesteps' waves have another spacing than the paper's code, so `ours` is given that for the comparison.
    """
    diffusers = pytest.importorskip("diffusers", reason="the peer is missing: pip install -e '.[test]'")
    config, own = ours.config, ours.state_dict()
    peer = diffusers.DiTTransformer2DModel(
        num_attention_heads=config["heads"], attention_head_dim=config["width"] // config["heads"],
        in_channels=config["in_channels"], out_channels=config["out_channels"], num_layers=config["depth"],
        sample_size=config["image_size"], patch_size=config["patch"], num_embeds_ada_norm=classes, norm_eps=1e-6,
    )  # fmt: skip
    ours.freq_shift = 1
    patch, out = config["patch"], config["out_channels"]

    def pixels_first(tensor: Tensor) -> Tensor:
        """Bring the rows of the last layer from (channel, row, column) to (row, column, channel)."""
        return tensor.unflatten(0, (out, patch, patch)).permute(1, 2, 0, *range(3, tensor.ndim + 2)).flatten(0, 2)

    table = torch.cat([own["label.weight"].T + own["label.bias"], torch.zeros(1, config["width"])])
    tensors = {"pos_embed.proj.weight": own["patch_in.weight"].view_as(peer.pos_embed.proj.weight),
               "pos_embed.proj.bias": own["patch_in.bias"],
               "proj_out_2.weight": pixels_first(own["patch_out.weight"]),
               "proj_out_2.bias": pixels_first(own["patch_out.bias"])}  # fmt: skip
    layers = {"proj_out_1": "condition_out"}
    for number in range(config["depth"]):
        their, our = f"transformer_blocks.{number}", f"blocks.{number}"
        names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "out"}
        layers |= {f"{their}.attn1.{a}": f"{our}.attention.{b}" for a, b in names.items()}
        layers |= {f"{their}.ff.net.0.proj": f"{our}.mlp.0", f"{their}.ff.net.2": f"{our}.mlp.2"}
        layers |= {f"{their}.norm1.linear": f"{our}.condition"}
        layers |= {f"{their}.norm1.emb.timestep_embedder.linear_{n}": f"time.{2 * n - 2}" for n in (1, 2)}
        tensors[f"{their}.norm1.emb.class_embedder.embedding_table.weight"] = table
    tensors |= {f"{a}.{part}": own[f"{b}.{part}"] for a, b in layers.items() for part in ("weight", "bias")}
    peer.load_state_dict(tensors)
    return peer.eval()


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"out_channels": 6}, {"patch": 4, "heads": 4}, {"in_channels": 1}], ids=str)
def test_same_weights_same_output(changes: dict[str, Any]) -> None:
    """Within 1e-5 of outputs of deviation 0.5 or more, with a label and without. Swapped shift and scale: off by 1."""
    ours = drawn(label_dim=5, **changes)
    peer = theirs(ours, classes=5)
    x, t = batch(4, channels=ours.in_channels)
    labels = torch.tensor([0, 3, 4, 5])  # 5: none
    told = torch.nn.functional.one_hot(labels.clamp(max=4), 5).float()
    expected = peer(x, t, class_labels=labels).sample
    assert expected.std() > 0.5
    torch.testing.assert_close(ours(x, t, told, labels < 5), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours(x, t)[3], expected[3], rtol=0, atol=1e-5)
    shared = {key: value for key, value in ours.state_dict().items() if not key.startswith("label")}
    unconditional = drawn(**changes)
    unconditional.load_state_dict(shared)
    unconditional.freq_shift = 1
    torch.testing.assert_close(unconditional(x, t)[3], expected[3], rtol=0, atol=1e-5)


@pytest.mark.parametrize("width, depth, heads, count", [(384, 12, 6, 32_963_360), (1152, 28, 16, 675_129_632)])
def test_the_papers_parameters(width: int, depth: int, heads: int, count: int) -> None:
    """DiT-S/2 (33M in table 1) and DiT-XL/2 (675M): latents 32x32x4 and their variances out, 1000 classes and none.

    The paper's code, whose counts these are, stores the positions, and its table of labels has no bias.
    """
    with torch.device("meta"):
        ours = DiT(32, 4, 8, width=width, depth=depth, heads=heads, label_dim=1001)
    assert sum(parameter.numel() for parameter in ours.parameters()) - width + 16 * 16 * width == count


# ---- what the docstrings promise ----


def test_a_fresh_one_predicts_0_and_its_blocks_are_the_identity() -> None:
    """Exactly, whatever is told. A gate or a last layer that starts at anything else fails."""
    network = DiT(**SMALL, label_dim=3)
    x, t = batch()
    assert torch.equal(network(x, t, torch.ones(2, 3)), torch.zeros_like(x))
    h, c = torch.randn(2, 64, 16), torch.randn(2, 16)
    for block in network.blocks:
        assert torch.equal(block(h, c), h)
    network(x, t).sum().backward()
    assert network.patch_out.bias.grad is not None and network.patch_out.bias.grad.abs().min() > 0  # and yet it learns


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_patches_come_back(patch: int) -> None:
    """Row by row, also of images that are not square; a patch is a patch of the image."""
    x = torch.arange(2 * 3 * 8 * 12.0).view(2, 3, 8, 12)
    patches = patchify(x, patch)
    assert patches.shape == (2, 8 * 12 // patch**2, 3 * patch**2)
    assert torch.equal(unpatchify(patches, patch, 8, 12), x)
    second = x[:, :, :patch, patch : 2 * patch].flatten(1)  # to the right of the first
    assert torch.equal(patches[:, 1], second)


def test_positions_are_the_formula() -> None:
    """sin and cos of the column, then of the row, at 10000^(-i / (D/4)): one patch checked by hand, all distinct."""
    table = positions(3, 5, 16, like=torch.zeros(1))
    frequency = 10_000.0 ** (-torch.arange(4) / 4)
    column, row = 4 * frequency, 2 * frequency  # the last of 3 x 5
    torch.testing.assert_close(table[-1], torch.cat([column.sin(), column.cos(), row.sin(), row.cos()]))
    assert len(table.unique(dim=0)) == 15


@torch.no_grad()
def test_patches_and_their_places_can_be_permuted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the output is permuted alike, because nothing else knows the order. Patches alone: another output."""
    network = drawn()
    x, t = batch()
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    shuffled = unpatchify(patchify(x, 2)[:, order], 2, 16, 16)
    expected = patchify(network(x, t), 2)[:, order]
    assert (patchify(network(shuffled, t), 2) - expected).abs().max() > 0.1
    monkeypatch.setattr("minidiff.networks.dit.positions", lambda *size, like: positions(*size, like=like)[order])
    torch.testing.assert_close(patchify(network(shuffled, t), 2), expected, rtol=1e-4, atol=1e-5)


def test_modulate_takes_the_place_of_a_norms_weights() -> None:
    h, shift, scale = torch.randn(2, 5, 8), torch.randn(2, 1, 8), torch.randn(2, 1, 8)
    expected = torch.nn.functional.layer_norm(h[1], (8,), 1 + scale[1, 0], shift[1, 0], 1e-6)
    torch.testing.assert_close(modulate(h, shift, scale)[1], expected)


@torch.no_grad()
def test_labels_are_told_as_to_a_unet() -> None:
    """`keep` False is no labels at all; rows of zeros are something else. t may be a float."""
    network = drawn(label_dim=3)
    x, t = batch()
    told = network(x, t, torch.ones(2, 3), torch.tensor([True, False]))
    torch.testing.assert_close(told[0], network(x, t, torch.ones(2, 3))[0])
    torch.testing.assert_close(told[1], network(x, t)[1])
    assert (network(x, t, torch.zeros(2, 3)) - network(x, t)).abs().max() > 0.01
    assert torch.equal(network(x, t.float()), network(x, t))
    assert (network(x, t + 0.5) - network(x, t)).abs().max() > 1e-3
    assert torch.equal(network(x, t[:1])[0], network(x, t)[0])


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"image_size": 15}, "15 does not divide by 2, which this network's patches of 2x2 need. Try 14 or 16"),
        ({"heads": 3}, "3 heads do not divide the width 16. Try a width of 12"),
        ({"width": 18, "heads": 1}, "`width` is 18. Use a multiple of 4, such as 16"),
        ({"patch": 0}, "`patch` is 0"),
        ({"depth": 0}, "`depth` is 0"),
        ({"label_dim": -1}, "`label_dim` is -1"),
    ],
)
def test_arguments_that_no_network_has(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said.replace("(", r"\(")):
        DiT(**SMALL | arguments)


def test_images_that_do_not_fit() -> None:
    """Sizes that the patch does not divide are refused; others than its own are taken, not square ones too."""
    network = drawn()
    with pytest.raises(UserError, match="17 does not divide by 2"):
        network(torch.zeros(1, 3, 16, 17), torch.tensor([0]))
    with pytest.raises(UserError, match="which takes"):
        network(torch.zeros(1, 1, 16, 16), torch.tensor([0]))
    with pytest.raises(UserError, match="label_dim > 0"):
        network(torch.zeros(1, 3, 16, 16), torch.tensor([0]), torch.zeros(1, 2))
    assert network(torch.zeros(1, 3, 8, 12), torch.tensor([0])).shape == (1, 3, 8, 12)


def test_muon_gets_what_is_inside_the_blocks() -> None:
    """Six matrices a block: neither the patches' layers nor what timestep and labels go through."""
    network = DiT(**SMALL, label_dim=2)
    moved = {id(weight) for weight in hidden_weights(network)}
    names = {name for name, parameter in network.named_parameters() if id(parameter) in moved}
    layers = ("attention.query", "attention.key", "attention.value", "attention.out", "mlp.0", "mlp.2")
    assert names == {f"blocks.{number}.{layer}.weight" for number in (0, 1) for layer in layers}


# ---- as a run ----


@pytest.fixture(autouse=True)
def small_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minidiff.ddpm.previews.IMAGES", 1)
    monkeypatch.setattr("minidiff.ddpm.previews.COLUMNS", 1)
    monkeypatch.setattr("minidiff.training.journal.draw_curves", lambda folder: None)


def test_it_trains_resumes_to_the_bit_and_draws_what_was_asked(
    photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With labels, by Muon, through the same commands as a U-Net; and what is not possible is said in a line."""
    preset = DDPM_PRESETS["cpu"]
    training = replace(preset.training, decay="constant")  # a rate that does not ask for the number of steps
    monkeypatch.setitem(DDPM_PRESETS, "cpu", replace(preset, training=training))
    images = minidiff.load_data(photos, image_size=16).images
    more = OPTIONS | {"labels": [0, 1] * 12, "conditional": True}
    whole = minidiff.train("ddpm", images, out="whole", **more)
    minidiff.train("ddpm", images, out="half", **more | {"steps": 2})
    assert cli.run(["train", "ddpm", "--resume", "half", "--steps", "4", "--network", "dit", "--device", "cpu"]) != 0
    assert "--network is part of the run" in capsys.readouterr().err
    minidiff.resume("half", images, steps=4, device="cpu")
    first, second = (read_tensors(Path(run, "model.safetensors")) for run in ("whole", "half"))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    network = read_json(Path("whole/config.json"))["network"]
    assert network["kind"] == "dit" and network["label_dim"] == 2 and network["width"] == 16
    again = minidiff.load("whole")
    assert isinstance(again.model, minidiff.DiT)
    drawn = [torch.cat(list(run.sample(2, steps=2, labels=[[1]]))) for run in (whole, again)]
    assert torch.equal(*drawn)
    assert cli.run(["info", "whole"]) == 0
    assert "DiT, 2 blocks of width 16, 2 heads, 8x8 patches of 2x2" in capsys.readouterr().out
    with pytest.raises(UserError, match="is a DiT, and diffusers gets U-Nets alone"):
        minidiff.export_run("whole", "theirs")
    with pytest.raises(UserError, match="is no unet, so its weights are lost on one"):
        minidiff.train("ddpm", images, init="whole", **more | {"network": "unet", "network_arguments": None})
    begun = minidiff.train("ddpm", images, init="whole", out="begun", labels=[0, 1] * 12, steps=1, batch_size=4,
                           sample_every=60, device="cpu")  # fmt: skip
    assert isinstance(begun.model, minidiff.DiT) and begun.config.init is not None
    saved = minidiff.save_run("saved", DiT(**SMALL), minidiff.Schedule.cosine(10))
    assert isinstance(minidiff.load("saved").model, DiT) and next(saved.sample(1, steps=2)).isfinite().all()


def test_a_checkpoint_that_lacks_a_layer_is_refused(photos: Path) -> None:
    """So is one whose config is of the other network, or names another width."""
    from safetensors.torch import save_file

    minidiff.train("ddpm", minidiff.load_data(photos, image_size=16).images, out="run", **OPTIONS | {"steps": 1})
    stored, tensors = read_json(Path("run/config.json")), read_tensors(Path("run/model.safetensors"))
    write_json(Path("run/config.json"), stored | {"network": stored["network"] | {"width": 32}})
    with pytest.raises(UserError, match="does not fit this network"):
        minidiff.load("run")
    write_json(Path("run/config.json"), stored | {"network": stored["network"] | {"kind": "vit"}})
    with pytest.raises(UserError, match='"network.kind" is .?vit'):
        minidiff.load("run")
    lacking = {name: value for name, value in stored["network"].items() if name != "patch"}
    write_json(Path("run/config.json"), stored | {"network": lacking})
    with pytest.raises(UserError, match='"network.patch" is missing'):
        minidiff.load("run")
    write_json(Path("run/config.json"), stored)
    minidiff.load("run")
    del tensors["blocks.1.mlp.2.weight"]
    save_file(tensors, "run/model.safetensors")
    with pytest.raises(UserError, match="blocks.1.mlp.2.weight is missing"):
        minidiff.load("run")


@pytest.mark.parametrize(
    "options, said",
    [
        ({"preset": "photos"}, "the preset photos has no DiT. Take cpu or gpu"),
        ({"network_arguments": {"widht": 8}}, '"widht" is not a key'),
        ({"network_arguments": {"heads": 5}}, "5 heads do not divide the width 128"),
        ({"network_arguments": {"image_size": 8}}, "image_size, which follows from the images"),
        ({"image_size": 15, "network_arguments": {"patch": 4}}, "15 does not divide by 4"),
    ],
)
def test_a_request_that_no_dit_fits(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        minidiff.train("ddpm", **OPTIONS | options)


def test_a_unets_arguments_can_be_changed_too() -> None:
    job = minidiff.plan_training("ddpm", preset="cpu", network="unet", network_arguments={"channels": [8, 16, 24]})
    assert job.config.network.channels == (8, 16, 24) and job.config.network.layers_per_block == 1


def test_it_learns() -> None:
    """Of twelve images of one colour each: the loss of v falls from 1 to under 0.5 in 60 steps (0.2 seen)."""
    torch.manual_seed(0)
    network = DiT(8, 1, width=32, depth=2, heads=2)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    schedule, losses = minidiff.Schedule.cosine(100), []
    for _ in range(60):
        x0 = torch.rand(16, 1, 1, 1).expand(-1, 1, 8, 8) * 2 - 1
        t, noise = torch.randint(100, (16,)), torch.randn(16, 1, 8, 8)
        loss = minidiff.diffusion_loss(network, schedule, x0, t, noise, "eps").mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert 0.8 < losses[0] < 1.2 and sum(losses[-10:]) / 10 < 0.5


def test_config_is_json() -> None:
    network = DiT(**SMALL)
    same = DiT(**json.loads(json.dumps(network.config)))
    assert same.config == network.config and DiTConfig(**network.config).out_channels == 3


def test_bfloat16() -> None:
    """Autocast as in a training: close to float32, gradients in float32."""
    network, (x, t) = drawn(), batch()
    with torch.autocast("cpu", torch.bfloat16):
        found = network(x, t)
    assert (found.float() - network(x, t)).abs().mean() < 0.05 * network(x, t).std()
    found.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())
