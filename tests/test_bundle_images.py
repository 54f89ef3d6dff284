"""The bundles of images: surroundings, classes, colour, patches, and data that they refuse."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from monai.bundle import ckpt_export, verify_net_in_out
from PIL import Image
from small_data import ARRAYS
from workflows import (
    ROOT,
    workflow,
)

from monai_diffscore.errors import find_cause


@pytest.mark.parametrize("bundle", ["pathology_hierarchical_unet"])
def test_tiles_are_sampled_for_the_surroundings_of_real_ones(bundle, dataset, tmp_path):
    """Contexts reach the network, with the slides' tiles: fewer of them than asked give as many samples."""
    (tmp_path / "data_statistics.json").write_text('{"sigma_data": 0.5, "mpp_um": 0.6, "tile_size": 64}')
    where = {"checkpoint": str(tmp_path / "model.pt"), "context_dir": dataset, "output_dir": str(tmp_path / "out")}
    samples = workflow(bundle, ["inference"], ["smoke"], kind="infer", **where)
    network = samples.parser.get_parsed_content("network")
    torch.save(network.state_dict(), tmp_path / "model.pt")
    seen = []
    network.register_forward_pre_hook(
        lambda _module, _args, condition: seen.append(condition["context"]), with_kwargs=True
    )
    samples.run()
    assert len(list((tmp_path / "out").glob("pred_*.png"))) == 2
    assert seen[0].shape == (2, 3, 64, 64)
    context = seen[0][~seen[0].isnan()]
    assert -1 <= context.min() < context.max() <= 1
    assert 0 < len(context) < seen[0].numel()  # beyond the slide it is missing


@pytest.mark.parametrize("bundle", ARRAYS)
def test_the_network_takes_an_image_alone_and_exports(bundle, tmp_path):
    """What the model zoo checks: shape and type as the metadata say, for several n; weights to TorchScript."""
    folder = ROOT / "bundles" / bundle
    facts = {"sigma_data": 0.5, "low": 0, "high": 1, "image_size": [8, 8], "window_size": [256], "channels": 1}
    (tmp_path / "data_statistics.json").write_text(json.dumps({**facts, "num_classes": 10}))
    files = {
        "meta_file": str(folder / "configs/metadata.json"), "config_file": str(folder / "configs/inference.json")
    }  # fmt: skip
    checkpoint = str(tmp_path / "model.pt")
    sampling = workflow(bundle, ["inference"], kind="infer", checkpoint=checkpoint)
    network = sampling.parser.get_parsed_content("network_def").eval()
    torch.save(network.state_dict(), checkpoint)
    for n in (1, 2, 5):
        verify_net_in_out("network_def", **files, device="cpu", n=n, checkpoint=checkpoint)
    ckpt_export(
        "network_def", filepath=str(tmp_path / "model.ts"), ckpt_file=checkpoint, **files, checkpoint=checkpoint,
        input_shape=[1, *network.network.example_shape],
    )  # fmt: skip
    image = torch.randn(3, *network.network.example_shape)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts")(image), network(image), rtol=1e-2, atol=1e-2)


def test_a_folder_of_colour_pictures_trains_and_samples(tmp_path):
    """Of several sizes, in sub-folders of their classes; sampling takes size and channels from the training."""
    generator = np.random.default_rng(0)
    for number in range(10):
        path = tmp_path / f"data/{'cat' if number % 2 else 'dog'}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (12 + number, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    where = {"output_dir": str(tmp_path / "out"), "ckpt_dir": str(tmp_path), "dataset_dir": str(tmp_path / "data")}
    options = {"image_size": [12, 16], "image_channels": 3, "num_classes": 2}
    with pytest.raises(RuntimeError) as caught:
        workflow("natural_dit2d", ["train"], ["smoke"], **where, **options)
    assert "--fit True" in str(find_cause(caught.value))
    assert not (tmp_path / "out").exists()
    workflow("natural_dit2d", ["train"], ["smoke"], **where, **options, fit=True).run()
    assert json.loads((tmp_path / "data_statistics.json").read_text())["classes"] == ["cat", "dog"]
    where = {"checkpoint": str(tmp_path / "model.pt"), "output_dir": str(tmp_path / "samples")}
    workflow("natural_dit2d", ["inference"], ["smoke"], kind="infer", **where, label=1).run()
    with Image.open(tmp_path / "samples/pred_0001.png") as picture:
        assert (picture.mode, picture.size) == ("RGB", (16, 12))


@pytest.mark.parametrize("bundle", ["natural_dit2d"])
def test_a_class_is_sampled_by_its_label(bundle, tmp_path):
    facts = {"sigma_data": 0.5, "low": 0, "high": 255, "image_size": [8, 8], "channels": 1, "num_classes": 3}
    facts["classes"] = ["square", "circle", "star"]
    (tmp_path / "data_statistics.json").write_text(json.dumps(facts))
    (tmp_path / "model.pt").touch()
    where = {"checkpoint": str(tmp_path / "model.pt"), "output_dir": str(tmp_path / "out")}
    for chosen, expected in (({}, -1), ({"label": 2}, 2), ({"label": "circle"}, 1)):
        samples = workflow(bundle, ["inference"], ["smoke"], kind="infer", **where, **chosen)
        network = samples.parser.get_parsed_content("network")
        torch.save(network.state_dict(), tmp_path / "model.pt")
        seen = []
        network.register_forward_pre_hook(
            lambda _module, _args, condition, seen=seen: seen.append(condition), with_kwargs=True
        )
        samples.run()
        assert [given["label"].tolist() for given in seen] == [[expected] * 2] * len(seen)


@pytest.mark.parametrize("bundle", ["ct_unet3d", "ct_unet2d"])
def test_drawing_patches_leaves_the_cached_volume_alone(bundle, dataset, tmp_path):
    """The cache is not copied for each patch, because a copy grows with the volume."""
    training = workflow(bundle, ["train"], ["smoke"], output_dir=f"{tmp_path}/out", ckpt_dir=str(tmp_path),
                    dataset_dir=dataset, patches_per_volume=12, affine_probability=0.5,
                    flip_probability=0.5, noise_hu=10.0)  # fmt: skip
    drawn = training.parser.get_parsed_content("train#dataset")
    cached = drawn._cache[0]["image"]
    before = (cached.as_tensor().clone(), cached.affine.clone(), list(cached.applied_operations))
    patches = [drawn[index]["image"] for index in range(12)]
    assert torch.equal(cached.as_tensor(), before[0])
    assert torch.equal(cached.affine, before[1])
    assert len(cached.applied_operations) == len(before[2])
    assert all(-1 <= patch.min() < patch.max() <= 1 for patch in patches)
    assert len({float(patch.as_tensor().sum()) for patch in patches}) > 8  # a patch of air has no second look
