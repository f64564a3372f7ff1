"""A digest changes with every bit that matters, and with nothing else."""

import torch

from d2rkit.core.digests import file_digest, tensors_digest, weights_digest
from d2rkit.networks.architectures import build_model


def test_weights_digest_follows_names_shapes_dtypes_and_bits():
    a, b = torch.arange(6.0), torch.tensor(3)
    digest = tensors_digest({"a": a, "b": b})
    assert digest == tensors_digest({"b": b.clone(), "a": a.clone()}) and len(digest) == 16
    flipped = a.clone()
    flipped.view(torch.uint8)[5] ^= 1
    others = [{"a": flipped, "b": b}, {"c": a, "b": b}, {"a": a.view(2, 3), "b": b}, {"a": a.double(), "b": b}]
    assert len({tensors_digest(other) for other in others} | {digest}) == 5


def test_digest_does_not_follow_memory_format():
    network = build_model("cnn-4", 10, 8, 1)
    digest = weights_digest(network)
    assert digest == weights_digest(network.to(memory_format=torch.channels_last))
    with torch.no_grad():
        network.linear.bias[0] += 1e-6
    assert digest != weights_digest(network)


def test_file_digest_follows_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"one")
    (tmp_path / "c").write_bytes(b"onf")
    assert file_digest(tmp_path / "a") == file_digest(tmp_path / "b") != file_digest(tmp_path / "c")
