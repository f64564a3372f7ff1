"""Attacks against the closed-form optimum of linear models, and the bounds no attack may leave."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from d2rkit.methods import attacks

EPS = 0.1


def linear(features=12, classes=2, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(features, classes)).double()


def images(n=8, low=0.0, high=1.0, seed=1):
    drawn = torch.rand(n, 3, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return low + (high - low) * drawn


Y = torch.arange(8) % 2


def uphill(net, y):
    """Gradient of z_other - z_y with respect to the image: the same everywhere for a linear model of two classes."""
    w = net[1].weight.detach()
    return (w[1 - y] - w[y]).view(-1, 3, 2, 2)


def how(norm="linf", steps=20):
    return {"eps": EPS, "step_size": EPS / 4, "steps": steps, "norm": norm}


@pytest.mark.parametrize("attack", [attacks.pgd_ce, attacks.cw])
@pytest.mark.parametrize("started", [False, True])
def test_linf_reaches_the_corner(attack, started):
    net, x = linear(), images()  # from 0 to 1: the walls of [0, 1] matter as well
    start = attacks.uniform_start(x, EPS, torch.Generator().manual_seed(2)) if started else None
    best = (x + EPS * uphill(net, Y).sign()).clamp(0, 1)
    torch.testing.assert_close(attack(net, x, Y, start=start, **how()), best)


@pytest.mark.parametrize("attack", [attacks.pgd_ce, attacks.cw])
@pytest.mark.parametrize("started", [False, True])
def test_l2_reaches_the_sphere_along_the_gradient(attack, started):
    net, x = linear(), images(low=0.3, high=0.7)
    start = attacks.uniform_start(x, EPS / 6, torch.Generator().manual_seed(2)) if started else None
    direction = uphill(net, Y)
    best = x + EPS * direction / direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    x_adv = attack(net, x, Y, start=start, **how("l2", 200))
    torch.testing.assert_close(x_adv, best, rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm", attacks.NORMS)
def test_a_step_is_of_step_size_however_steep_the_loss(norm):
    x = images(low=0.3, high=0.7)
    for steepness in (1e-3, 1.0, 1e3):
        moved = attacks.pgd(lambda z, s=steepness: s * z.square().sum(), x, eps=1.0, step_size=0.01, steps=1, norm=norm)
        length = torch.linalg.vector_norm((moved - x).flatten(1), torch.inf if norm == "linf" else 2, dim=1)
        torch.testing.assert_close(length, torch.full_like(length, 0.01))


def test_fgsm_reaches_the_corner_in_one_step():
    net, x = linear(), images()
    best = (x + EPS * uphill(net, Y).sign()).clamp(0, 1)
    torch.testing.assert_close(attacks.fgsm(net, x, Y, eps=EPS), best)


def test_cw_goes_for_the_class_nearest_to_winning():
    net = linear(classes=3)
    with torch.no_grad():
        net[1].bias.copy_(torch.tensor([0.0, 5.0, -100.0]))  # class 1 is always ahead of class 2
    x, y = images(), torch.zeros(8, dtype=torch.long)
    w = net[1].weight.detach()
    best = (x + EPS * (w[1] - w[0]).view(1, 3, 2, 2).sign()).clamp(0, 1)
    torch.testing.assert_close(attacks.cw(net, x, y, **how()), best)


def test_margin_is_positive_where_the_prediction_is_wrong():
    logits = torch.tensor([[3.0, 1.0, 0.0], [3.0, 1.0, 0.0], [0.0, 1.0, 5.0], [5.0, -1.0, -2.0]])
    assert attacks.margin(logits, torch.tensor([0, 1, 1, 0])).tolist() == [-2, 2, 4, -6]


def test_cag_of_linear_models_moves_the_target_away_from_the_guide():
    target, guide, x = linear(seed=0), linear(seed=1), images()
    p, q = target(x).softmax(1)[:, 1], guide(x).softmax(1)[:, 1]
    away = (p - q).sign().view(-1, 1, 1, 1) * uphill(target, torch.zeros(8, dtype=torch.long))
    assert (p > q).any() and (p < q).any()
    x_adv = attacks.cag(target, guide, x, start=torch.zeros_like(x), **how())
    torch.testing.assert_close(x_adv, (x + EPS * away.sign()).clamp(0, 1))


def test_cag_with_the_guides_share_alone_attacks_the_guide():
    target, guide, x = linear(seed=0), linear(seed=1), images()
    zero = torch.zeros_like(x)
    given_labels = attacks.cag(target, guide, x, start=zero, guide_share=1.0, y=Y, **how())
    torch.testing.assert_close(given_labels, (x + EPS * uphill(guide, Y).sign()).clamp(0, 1))
    own = guide(x).argmax(1)
    own_labels = attacks.cag(target, guide, x, start=zero, guide_share=1.0, **how())
    torch.testing.assert_close(own_labels, (x + EPS * uphill(guide, own).sign()).clamp(0, 1))


def test_kl_self_leaves_a_random_start_and_ends_on_a_corner():
    net, x = linear(), images(low=0.2, high=0.8)
    x_adv = attacks.kl_self(net, x, generator=torch.Generator().manual_seed(0), **how())
    assert torch.isin(((x_adv - x) / EPS).round(decimals=6), torch.tensor([-1.0, 1.0]).double()).all()
    again = attacks.kl_self(net, x, generator=torch.Generator().manual_seed(0), **how())
    assert torch.equal(x_adv, again)
    # At x itself the gradient is zero: without a start there is nothing to climb.
    stays = attacks.kl_self(net, x, start=torch.zeros_like(x), **how(steps=1))
    assert (stays - x).abs().max() < EPS / 3


def test_points_in_the_plane_are_images_too():
    net = nn.Linear(2, 2).double()
    x = torch.full((4, 2), 0.5).double()
    best = x + EPS * (net.weight[1] - net.weight[0]).sign()
    torch.testing.assert_close(attacks.pgd_ce(net, x, torch.zeros(4, dtype=torch.long), **how()), best.detach())


def attack_all(net, guide, x, y, start, norm, **budget):
    yield "pgd_ce", attacks.pgd_ce(net, x, y, start=start, norm=norm, **budget)
    yield "cw", attacks.cw(net, x, y, start=start, norm=norm, **budget)
    yield "kl_self", attacks.kl_self(net, x, start=start, norm=norm, **budget)
    yield "cag", attacks.cag(net, guide, x, start=start, norm=norm, **budget)
    yield "cag shared", attacks.cag(net, guide, x, start=start, norm=norm, guide_share=0.5, y=y, **budget)
    if norm == "linf":
        yield "fgsm", attacks.fgsm(net, x, y, eps=budget["eps"], start=start)


@settings(max_examples=60, deadline=None)
@given(
    eps=st.one_of(st.just(0.0), st.floats(1e-4, 1.5)),
    step=st.floats(0, 2),
    steps=st.integers(0, 4),
    spread=st.floats(0, 3),
    seed=st.integers(0, 2**20),
    norm=st.sampled_from(attacks.NORMS),
)
def test_perturbations_never_leave_the_ball_nor_the_pixel_range(eps, step, steps, spread, seed, norm):
    torch.manual_seed(seed)
    net, guide = (nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3)) for _ in range(2))
    x = (torch.rand(5, 3, 2, 2) * 1.4 - 0.2).clamp(0, 1)  # some pixels lie on the walls
    y, start = torch.randint(0, 3, (5,)), spread * torch.randn(x.shape)
    for name, x_adv in attack_all(net, guide, x, y, start, norm, eps=eps, step_size=step, steps=steps):
        assert x_adv.shape == x.shape and torch.isfinite(x_adv).all(), name
        assert x_adv.min() >= 0 and x_adv.max() <= 1, name
        delta = (x_adv - x).flatten(1)
        length = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
        assert (length <= eps + 1e-6).all(), name
        if eps == 0:
            assert torch.equal(x_adv, x), name


@pytest.mark.parametrize("norm", attacks.NORMS)
def test_networks_are_left_as_they_were(norm):
    net, guide = (nn.Sequential(nn.Flatten(), nn.Linear(12, 2), nn.BatchNorm1d(2)).double() for _ in range(2))
    guide[2].eval()
    net[1].bias.requires_grad_(False)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    for name, x_adv in attack_all(net, guide, images(), Y, 0.01 + 0 * images(), norm, eps=EPS, step_size=EPS, steps=2):
        assert not x_adv.requires_grad, name
        assert net.training and guide[1].training and not guide[2].training, name
        assert net[1].weight.requires_grad and not net[1].bias.requires_grad, name
        assert all(p.grad is None for m in (net, guide) for p in m.parameters()), name
    for key, value in net.state_dict().items():  # BatchNorm statistics among them
        assert torch.equal(value, before[key]), key


def test_no_parameter_requires_a_gradient_during_an_attack():
    seen = []

    class Watch(nn.Linear):
        def forward(self, x):
            seen.append((self.weight.requires_grad, self.training))
            return super().forward(x.flatten(1))

    target, guide = Watch(12, 2).double(), Watch(12, 2).double()
    attacks.cag(target, guide, images(), guide_share=0.5, **how(steps=2))
    assert len(seen) == 5 and not any(grad or training for grad, training in seen)


def test_the_guides_clean_prediction_is_computed_once():
    calls = []
    guide = linear(seed=1)
    guide.register_forward_hook(lambda *_: calls.append(1))
    attacks.cag(linear(), guide, images(), **how(steps=7))
    assert len(calls) == 1


def test_a_caller_under_no_grad_gets_the_same_images():
    net, x = linear(), images()
    with torch.no_grad():
        inside = attacks.pgd_ce(net, x, Y, **how())
    assert torch.equal(inside, attacks.pgd_ce(net, x, Y, **how()))


def test_starts():
    x = torch.zeros(4, 3, 16, 16)
    gaussian = attacks.gaussian_start(x, torch.Generator().manual_seed(0))
    assert gaussian.std().item() == pytest.approx(0.001, rel=0.05)
    uniform = attacks.uniform_start(x, EPS, torch.Generator().manual_seed(0))
    assert 0.99 * EPS < uniform.abs().max() <= EPS and uniform.min() < -0.9 * EPS and uniform.max() > 0.9 * EPS
    assert torch.equal(uniform, attacks.uniform_start(x, EPS, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"norm": "l22"}, "unknown norm 'l22' .*'l2'.*linf, l2"),
        ({"norm": 2}, "unknown norm 2 .*allowed: linf, l2"),
        ({"eps": -0.1}, "eps must be a finite number of at least 0, not -0.1"),
        ({"eps": torch.inf}, "eps must be a finite number"),
        ({"eps": "8/255"}, "eps must be a finite number of at least 0, not '8/255'"),
        ({"step_size": -1.0}, "step_size must be a finite number of at least 0, not -1.0"),
        ({"step_size": torch.nan}, "step_size must be .* not nan"),
        ({"steps": -1}, r"steps must be a whole number in 0\.\.1000000, not -1"),
        ({"steps": 2.5}, "steps must be a whole number"),
        ({"start": torch.zeros(8, 3, 2, 1)}, r"start must be like the images, torch.float64 of shape \(8, 3, 2, 2\)"),
        ({"start": torch.zeros(8, 3, 2, 2)}, "start must be like the images, torch.float64 .*not .* torch.float32"),
        ({"start": 0.1}, "start must be like the images"),
    ],
)
def test_impossible_settings_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        attacks.pgd_ce(linear(), images(), Y, **how() | changes)


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_only_floats_are_projected(dtype):
    with pytest.raises(ValueError, match="images must be a floating-point tensor"):
        attacks.project(images().to(dtype), images(), 0.1)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_impossible_guide_share_is_refused(share):
    with pytest.raises(ValueError, match=r"guide_share must be a finite number in \[0, 1\]"):
        attacks.cag(linear(), linear(), images(), guide_share=share, **how())


@pytest.mark.parametrize(("size", "says"), [((0, 6), "images must be"), ((1, 1), r"\(2, 3, 1, 1\) are too small")])
def test_images_that_no_layer_can_take_are_said(size, says):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.LazyLinear(5))
    network(torch.rand(2, 3, 6, 6))
    with pytest.raises(ValueError, match=says):
        attacks.kl_self(network, torch.rand(2, 3, *size), eps=0.1, step_size=0.1, steps=1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_an_l2_step_follows_a_gradient_however_short(dtype):
    """Down to numbers whose squares are 0; a gradient of 0 moves nothing, and makes no NaN."""
    x = torch.full((3, 1, 2, 2), 0.5, dtype=dtype)
    way = torch.tensor([[3.0, 0.0], [-4.0, 0.0]], dtype=dtype)
    size = torch.tensor([0.0, max(1e-30, 8 * torch.finfo(dtype).smallest_normal), 1.0], dtype=dtype)
    size = size.view(3, 1, 1, 1)
    found = attacks.pgd(lambda z: (size * way * z).sum(), x, eps=0.25, step_size=0.125, steps=1, norm="l2")
    moved = torch.stack([torch.zeros(1, 2, 2), *2 * [0.125 * way[None].float() / 5]])
    torch.testing.assert_close((found - x).float(), moved, atol=1e-3 if dtype == torch.float16 else 1e-6, rtol=0)
    still = attacks.pgd(lambda z: (size * way * z).sum(), x, eps=0, step_size=0.125, steps=2, norm="l2")
    assert torch.equal(still, x)
