import pytest
import torch

from d2rkit.data import sample_images
from d2rkit.data.sample_images import cifar10_20
from d2rkit.panels import sample_pairs


def test_twenty_real_images():
    images, labels, names = cifar10_20()
    assert images.shape == (20, 3, 32, 32) and images.dtype == torch.float32
    assert images.min() >= 0 and images.max() <= 1 and len(names) == 10
    assert labels.tolist()[:4] == [3, 8, 8, 0]  # cat, ship, ship, airplane: the first of the test set


def test_missing_package_is_said(monkeypatch):
    monkeypatch.setattr(sample_images.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install foolbox"):
        cifar10_20()


def test_damaged_pictures_of_the_package_are_named(tmp_path, monkeypatch):
    import importlib.util
    import random
    import shutil
    from pathlib import Path

    data = Path(importlib.util.find_spec("foolbox").origin).parent / "data"
    for file in data.glob("cifar10_*.png"):
        (tmp_path / "data").mkdir(exist_ok=True)
        shutil.copy(file, tmp_path / "data")
    spec = importlib.util.spec_from_file_location("foolbox", tmp_path / "__init__.py")
    monkeypatch.setattr(sample_images.importlib.util, "find_spec", lambda name: spec)
    assert cifar10_20()[0].shape == (20, 3, 32, 32)
    rng, refused = random.Random(0), 0
    whole = min((tmp_path / "data").iterdir()).read_bytes()
    for _ in range(60):
        content = bytearray(whole)[: rng.choice((len(whole), rng.randrange(len(whole))))]
        for _ in range(min(3, len(content))):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        min((tmp_path / "data").iterdir()).write_bytes(content)
        try:
            cifar10_20()
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error) and "cifar10_00" in str(error)
    assert refused > 40


def test_undefended_network_knows_the_images():
    sample = sample_pairs.undefended_cifar10()
    with torch.no_grad():
        assert (sample.pair.target(sample.images).argmax(1) == sample.labels).float().mean() >= 0.9


def test_unknown_data_and_method():
    with pytest.raises(ValueError, match="did you mean 'digits'"):
        sample_pairs.best_pair("digit")
    with pytest.raises(ValueError, match="d2r-cag"):
        sample_pairs.best_pair("digits", method="d2r-cg")


def test_without_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="no CIFAR-10 checkpoint"):
        sample_pairs.shipped_pair("d2r-cag", tmp_path)


def test_a_shipped_checkpoint_is_found(tmp_path):
    from d2rkit.core.files import write_json
    from d2rkit.networks.architectures import build_model
    from d2rkit.networks.checkpoints import save_weights

    torch.manual_seed(0)
    target, guide = build_model("wrn-10-1", 10), build_model("cnn-4", 10, 32, 3)
    save_weights(tmp_path / "small.safetensors", target, guide)
    write_json(
        tmp_path / "small.json",
        {"data": "cifar10", "method": "d2r-cag", "target": "wrn-10-1", "guide": "cnn-4", "eps": 0.03},
    )
    sample = sample_pairs.shipped_pair("d2r-cag", tmp_path)
    assert sample.eps == 0.03 and "small" in sample.source and not sample.pair.training
    with torch.no_grad():
        torch.testing.assert_close(sample.pair.target(sample.images), target.eval()(sample.images))


def test_a_short_digits_run():
    sample = sample_pairs.digits_pair("natural", epochs=1)
    assert sample.pair.guide is None and "1 epochs" in sample.source and not sample.pair.training


def test_a_control_has_the_size_and_the_images_of_the_defended():
    defended = sample_pairs.shipped_pair("d2r-cag")
    control, words = sample_pairs.control_for(defended, defended)
    for name in ("target", "subset", "epochs", "lr", "seed"):
        assert getattr(control.experiment, name) == getattr(defended.experiment, name)
    assert control.parameters == defended.parameters and "only the defence is missing" in words
    scores = sample_pairs.measured(control)
    assert scores["clean"].n == defended.experiment.test_images and scores["pgd20"].value < 0.1 < scores["clean"].value


def test_without_such_a_control_the_comparison_is_called_confounded():
    from dataclasses import replace

    defended = sample_pairs.shipped_pair("d2r-cag")
    other = replace(defended, experiment=replace(defended.experiment, target="wrn-34-10"))
    control, words = sample_pairs.control_for(other, defended)
    assert control is defended and "confounded" in words
