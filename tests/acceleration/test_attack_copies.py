"""What attacks go through is the network that is judged, whatever the network is made of."""

import copy

import pytest
import torch
from torch import nn

from d2rkit.acceleration import attack_copies
from d2rkit.acceleration.attack_copies import BFLOAT16, FLOAT32, AttackCopies, attack_copy, difference
from d2rkit.acceleration.folding import FoldedCopy
from d2rkit.evaluation.evaluate import evaluate
from d2rkit.methods.pair import GuidedPair
from d2rkit.networks.architectures import build_model
from tests.acceleration.odd_networks import KINDS, TRAINED, Counts, Masks, Wrapped, stir


@pytest.fixture(scope="module")
def sample(digits):
    return digits.test.pixels(slice(0, 80)), digits.test.labels[:80]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_every_network_is_attacked_as_what_it_is(trained, sample, kind):
    torch.manual_seed(0)
    network, x = KINDS[kind](trained.target).eval(), sample[0]
    copied = attack_copy(network, x)
    assert copied.network is network or not difference(network, copied.network, x)
    labels = network(x).argmax(1).detach()  # right about all, whatever it has learnt
    fast, exact = (evaluate(network, (x, labels), "pgd10", 0.03, exact=e) for e in (False, True))
    assert abs(fast.accuracy("pgd10") - exact.accuracy("pgd10")) <= 2 / 80
    said = [note for note in fast.notes if "attacked without" in note]
    assert len(said) == (copied.network is network) and not [n for n in exact.notes if "attacked without" in n]


@pytest.mark.parametrize(
    "kind", ["forward pre-hook", "forward hook inside", "backward hook", "spectral norm", "own __call__"]
)
def test_what_tracing_would_lose_is_named(trained, sample, kind):
    copied = attack_copy(KINDS[kind](trained.target).eval(), sample[0])
    assert copied.reason and "\n" not in copied.reason


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_network_is_judged_but_has_no_gradient_to_attack(trained, sample):
    network = torch.ao.quantization.quantize_dynamic(copy.deepcopy(trained.target).eval(), {nn.Linear})
    assert evaluate(network, sample, "clean", 0.03).accuracy("clean") > 0.5
    with pytest.raises(ValueError, match="no gradient with respect to the images"):
        evaluate(network, sample, "pgd10", 0.03)


def test_a_hook_is_named_even_where_it_does_nothing_yet(trained, sample):
    network = copy.deepcopy(trained.target)
    network.linear.register_forward_hook(lambda *_: None)
    assert attack_copy(network, sample[0]).reason == "it has hooks (in linear)"


def test_hooks_for_all_modules_are_seen(trained, sample):
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert "hooks are registered for all modules" in attack_copy(trained.target, sample[0]).reason
    finally:
        handle.remove()
    assert attack_copy(trained.target, sample[0]).reason == ""


def test_a_copy_that_differs_in_logits_gradient_or_far_from_the_images_is_found_out(trained, sample):
    x = sample[0]

    class Louder(Wrapped):
        def forward(self, x):
            return 1.01 * self.network(x)

    class Steeper(Wrapped):  # by less than a kink may be
        def forward(self, x):
            logits = self.network(x)
            return logits + 0.1 * (logits - logits.detach())

    class DiffersFar(Wrapped):
        def forward(self, x):
            return self.network(x) + (x.amax((1, 2, 3)) > 0.95).float()[:, None]

    class DiffersAlone(Wrapped):
        def forward(self, x):
            return self.network(x) + (len(x) == 1)

    network, quiet = trained.target, x * 0.93
    assert difference(network, copy.deepcopy(network), x) == ""
    assert "logits differ" in difference(network, Louder(network), x)
    assert "gradients differ by 100.0% to 100.0% on the first images" in difference(network, Masks(network), x)
    assert "gradients differ by 10.0% to 10.0% on the first images" in difference(network, Steeper(network), x)
    assert "on their corners" in difference(network, DiffersFar(network), quiet)
    assert "on one image" in difference(network, DiffersAlone(network), x)
    assert "copy fails" in difference(network, build_model("cnn-4", 10, 8, 3), x)
    assert "instead of (64, 10)" in difference(network, build_model("cnn-4", 7, 8, 1), x)


@pytest.mark.parametrize("name", ["wrn-10-1", "preactresnet18", "resnet18-guide", "patch-resnet-16", "cnn-16"])
def test_the_kits_networks_get_a_folded_copy(name):
    torch.manual_seed(0)
    copied = attack_copy(stir(build_model(name, 10, 32)), torch.rand(4, 3, 32, 32))
    assert copied.reason == "" and not any(isinstance(m, nn.BatchNorm2d) for m in copied.network.modules())


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v2", "vgg11_bn", "densenet121", "shufflenet_v2_x0_5", "convnext_tiny"]
)
def test_torchvisions_networks_are_attacked_as_what_they_are(name):
    import torchvision

    torch.manual_seed(0)
    network, x = stir_any(getattr(torchvision.models, name)(num_classes=10)), torch.rand(2, 3, 64, 64)
    copied = attack_copy(network, x)
    assert copied.reason == "" and not difference(network, copied.network, x)


def stir_any(network):
    """As `stir`, by little, for deep networks whose logits would overflow."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.05)
            module.running_var.uniform_(0.8, 1.2)
    return network.eval()


@pytest.mark.parametrize("kind", TRAINED)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_what_is_attacked_in_training_stays_the_network(trained, sample, kind, dtype):
    torch.manual_seed(0)
    network, x = TRAINED[kind](trained.target), sample[0]
    twins = AttackCopies(GuidedPair(network), dtype=dtype)
    twins.refresh(x)
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.is_floating_point():
                tensor.add_(0.05 * torch.rand_like(tensor))
    attacked = twins.refresh(x).target
    tolerance = FLOAT32 if dtype is None else BFLOAT16
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is not None):
        assert attacked is network or difference(network, attacked, x, tolerance) == ""


def test_a_copy_that_training_has_left_behind_is_dropped(trained, sample, caplog, monkeypatch):
    class Warmer(Wrapped):
        temperature = 1.0

        def forward(self, x):
            return self.network(x * self.temperature)

    monkeypatch.setattr(attack_copies, "PROVE_EVERY", 3)
    network, x = Warmer(trained.target), sample[0]
    twins = AttackCopies(GuidedPair(network))
    assert twins.refresh(x).target is not network
    network.temperature = 0.5
    unfolded = [twins.refresh(x).target is network for _ in range(4)]
    assert unfolded == [False, False, True, True] and "logits differ" in caplog.text


def test_one_image_with_a_great_gradient_does_not_hide_the_others(trained, sample):
    class Skew(Wrapped):
        """Masks the gradients of all images but the first, whose own is great."""

        def __init__(self, network, masked):
            super().__init__(network)
            self.masked = masked

        def forward(self, x):
            x = torch.cat([x[:1] * 300, x[1:].detach() if self.masked else x[1:]])
            return self.network(x)

    honest, masked = Skew(trained.target, False), Skew(trained.target, True)
    assert "gradients differ" in difference(masked, honest, sample[0])


def test_buffers_that_a_forward_changes_are_put_back(trained, sample):
    network = Counts(trained.target)
    assert "changes its own calls" in difference(network, copy.deepcopy(network), sample[0])
    assert network.calls == 0


def test_casts_are_left_where_images_come_in_float32():
    network = stir(nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10)))
    x, twins = torch.rand(4, 1, 8, 8), [FoldedCopy(network), FoldedCopy(network)]
    twins[1].cast(torch.bfloat16, x)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert torch.equal(*(twin.twin(x) for twin in twins))
