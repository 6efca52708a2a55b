"""The transport's equations, each against its definition."""

import pytest
import torch

from bionemo.scale.flow.endpoint import endpoint_loss, velocity_loss
from bionemo.scale.flow.noise import set_noise
from bionemo.scale.flow.pairing import in_order, optimal_transport_order
from bionemo.scale.flow.path import interpolate
from bionemo.scale.flow.reduce import over_cells, over_sets
from bionemo.scale.flow.set_loss import energy_distance, maximum_mean_discrepancy
from bionemo.scale.flow.solver import solve
from bionemo.scale.flow.source import source

B, S, D = 4, 6, 5
MASK = torch.arange(S)[None] < torch.tensor([6, 3, 1, 0])[:, None]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def latents() -> torch.Tensor:
    return torch.randn(B, S, D)


def test_path_runs_from_the_source_to_the_endpoint():
    z_s, z1 = latents(), latents()
    assert torch.equal(interpolate(z_s, z1, torch.zeros(B)), z_s)
    assert torch.equal(interpolate(z_s, z1, torch.ones(B)), z1)
    t = torch.tensor([0.0, 0.25, 0.5, 1.0])
    torch.testing.assert_close(interpolate(z_s, z1, t)[1], 0.75 * z_s[1] + 0.25 * z1[1])


def test_velocity_error_is_endpoint_error_over_the_time_left_squared():
    z_s, z1, z1_hat = latents(), latents(), latents()
    t = torch.tensor([0.0, 0.3, 0.6, 0.9])
    z_t = interpolate(z_s, z1, t)
    left = (1 - t)[:, None, None]
    velocity_error = over_cells(((z1_hat - z_t) / left - (z1 - z_s)).square(), MASK)
    endpoint_error = endpoint_loss(z1_hat, z1, MASK) * over_cells(z1.square(), MASK)
    torch.testing.assert_close(velocity_error, endpoint_error / (1 - t) ** 2, rtol=1e-4, atol=1e-5)
    loss = velocity_loss(z1_hat, z1, t, MASK) * over_cells(z1.square(), MASK)
    torch.testing.assert_close(loss, velocity_error, rtol=1e-4, atol=1e-5)
    assert velocity_loss(z1_hat, z1, torch.ones(B), MASK).isfinite().all()


def test_endpoint_loss_is_one_for_predicting_zero_whatever_the_scale():
    z1 = latents()
    for scale in (0.01, 1.0, 100.0):
        loss = endpoint_loss(torch.zeros_like(z1), scale * z1, MASK)
        torch.testing.assert_close(loss, torch.tensor([1.0, 1.0, 1.0, 0.0]))


def test_endpoint_loss_does_not_move_its_target():
    z1, z1_hat = latents().requires_grad_(), latents().requires_grad_()
    endpoint_loss(z1_hat, z1, MASK).sum().backward()
    assert z1.grad is None
    assert z1_hat.grad.abs().sum() > 0


def test_energy_distance_is_the_direct_double_sum():
    x, y = torch.randn(B, S, 30), torch.randn(B, S, 30) + 1
    energy = energy_distance(x, y, MASK)
    for b, n in enumerate(MASK.sum(1).tolist()):

        def mean_distance(a, c, n=n):
            return sum(float((i - j).norm()) for i in a[:n] for j in c[:n]) / max(n * n, 1) / 30**0.5

        direct = mean_distance(x[b], y[b]) - mean_distance(x[b], x[b]) / 2 - mean_distance(y[b], y[b]) / 2
        # A cell is kept 0.001 away from itself, where the distance has no gradient.
        assert energy[b].item() == pytest.approx(direct, abs=1.1e-3 / max(n, 1))


def test_the_gradient_of_the_energy_distance_is_that_of_its_value():
    x, y = (torch.randn(B, S, 7, dtype=torch.float64) for _ in range(2))
    assert torch.autograd.gradcheck(lambda cells: energy_distance(cells, y, MASK), x.requires_grad_())


def test_energy_distance_is_zero_for_equal_samples_in_any_order():
    x = torch.rand(B, S, 200) * 5
    full = torch.ones(B, S, dtype=torch.bool)
    assert energy_distance(x, x.flip(1), full).abs().max() < 1e-4


@pytest.mark.parametrize("difference", [1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0])
def test_energy_distance_is_never_negative(difference):
    for cells in (1, 2, 16):
        x = torch.rand(64, cells, 20) * 3
        y = x + difference * torch.randn_like(x)
        assert energy_distance(x, y, torch.ones(64, cells, dtype=torch.bool)).min() > -5e-5


def test_an_unbiased_energy_distance_takes_no_smoother_population_for_a_nearer_one():
    x, y, full = torch.randn(512, 8, 20), torch.randn(512, 8, 20), torch.ones(512, 8, dtype=torch.bool)
    same, smooth = (energy_distance(cells, y, full, unbiased=True).mean() for cells in (x, 0.8 * x))
    assert abs(same) < 0.002 < 0.005 < smooth
    # With each cell's pair with itself the smoother one seems the nearer.
    assert energy_distance(0.8 * x, y, full).mean() < energy_distance(x, y, full).mean()


def test_energy_distance_ignores_padding_and_has_a_finite_gradient_where_cells_coincide():
    x, y = torch.rand(B, S, 20), torch.rand(B, S, 20)
    dirty_x, dirty_y = (torch.where(MASK[..., None], v, torch.full_like(v, 7.0)) for v in (x, y))
    torch.testing.assert_close(energy_distance(x, y, MASK), energy_distance(dirty_x, dirty_y, MASK))
    same = x.clone().requires_grad_()
    energy_distance(same, x, MASK).sum().backward()
    assert same.grad.isfinite().all()


def test_an_energy_distance_in_bf16_is_near_that_in_double_precision():
    """Of centred cells, as training gives them: most of a gene's values are one number, its mean taken off 0."""
    mask = torch.arange(64)[None] < torch.tensor([64, 40])[:, None]
    x, y = ((torch.rand(2, 64, 500) < 0.3) * torch.rand(2, 64, 500) * 3 for _ in range(2))
    x = x * 1.2
    x, y = ((cells - y.mean((0, 1))).bfloat16().requires_grad_() for cells in (x, y))
    exact = [cells.detach().double().requires_grad_() for cells in (x, y)]
    found, expected = energy_distance(x, y, mask), energy_distance(*exact, mask)
    torch.testing.assert_close(found.double(), expected, rtol=0.02, atol=0)
    for ours, theirs in zip(
        torch.autograd.grad(found.sum(), (x, y)), torch.autograd.grad(expected.sum(), exact), strict=True
    ):
        assert ours.dtype == torch.bfloat16
        assert (ours.double() - theirs).norm() < 0.02 * theirs.norm()


def test_mmd_is_the_direct_double_sum_of_its_kernels():
    x, y = torch.randn(B, S, 30), torch.randn(B, S, 30) + 1
    for b, n in enumerate(MASK.sum(1).tolist()):
        if not n:
            continue

        def squared(a, c):
            return torch.cdist(a, c).square() / 30

        one, other = x[b, :n], y[b, :n]
        width = squared(one, other).mean().clamp(min=1e-6)

        def kernel(a, c, width=width):
            return sum(torch.exp(-squared(a, c) / width / f) for f in (0.25, 0.5, 1, 2, 4)).mean() / 5

        direct = kernel(one, one) + kernel(other, other) - 2 * kernel(one, other)
        assert maximum_mean_discrepancy(x, y, MASK)[b].item() == pytest.approx(direct.item(), abs=1e-4)


def test_mmd_of_equal_samples_is_zero_and_padding_is_ignored():
    x, y = torch.rand(B, S, 20), torch.rand(B, S, 20)
    assert maximum_mean_discrepancy(y.flip(1), y, torch.ones(B, S, dtype=torch.bool)).abs().max() < 1e-5
    dirty_x, dirty_y = (torch.where(MASK[..., None], v, torch.full_like(v, 7.0)) for v in (x, y))
    torch.testing.assert_close(
        maximum_mean_discrepancy(x, y, MASK)[:3],
        maximum_mean_discrepancy(dirty_x, dirty_y, MASK)[:3],
        atol=1e-5,
        rtol=1e-3,
    )


def test_one_step_answers_the_transport_at_the_source():
    z_s = latents()
    seen = []

    def transport(z, t):
        seen.append((z, t))
        return z.cos() + t[:, None, None]

    torch.testing.assert_close(solve(transport, z_s, 1), z_s.cos())
    assert len(seen) == 1
    assert torch.equal(seen[0][0], z_s)
    assert torch.equal(seen[0][1], torch.zeros(B))


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 50])
def test_a_constant_endpoint_is_reached_in_any_number_of_steps(steps):
    end = latents()
    torch.testing.assert_close(solve(lambda z, t: end, 10 * latents(), steps), end, atol=1e-5, rtol=0)


def test_the_last_step_lands_on_the_last_answer():
    answers = []

    def transport(z, t):
        answers.append(z.sin() + t[:, None, None])
        return answers[-1]

    torch.testing.assert_close(solve(transport, latents(), 4), answers[-1], atol=1e-6, rtol=0)


def test_times_of_the_solver_are_even_from_zero():
    times = []
    solve(lambda z, t: times.append(t[0].item()) or z, latents(), 4)
    assert times == [0.0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_source_keeps_the_mean_square_and_ignores_padding(share):
    mask = torch.arange(2000)[None] < torch.tensor([2000, 1500])[:, None]
    z0 = 3 * torch.randn(2, 2000, D)
    noise = torch.randn(2, 2000, D)
    z_s = source(z0, noise, share, mask)
    torch.testing.assert_close(over_cells(z_s.square(), mask), over_cells(z0.square(), mask), rtol=0.1, atol=0)
    dirty = source(torch.where(mask[..., None], z0, torch.full_like(z0, 99.0)), noise, share, mask)
    assert torch.equal(dirty[mask], z_s[mask])


def test_source_ends_of_the_mix():
    z0, noise, full = latents(), latents(), torch.ones(B, S, dtype=torch.bool)
    assert torch.equal(source(z0, noise, 1.0, full), z0)
    rms = over_cells(z0.square(), full).sqrt()[:, None, None]
    torch.testing.assert_close(source(z0, noise, 0.0, full), rms * noise)


def drawn(keys, **changes):
    settings = dict(cells=S, width=D, start_fraction=0.3, context_dropout=0.3, device=torch.device("cpu")) | changes
    return set_noise(torch.tensor(keys), **settings)


def test_noise_of_a_set_depends_on_its_key_alone():
    together, alone, shuffled = drawn([5, 9, 2**62]), drawn([9]), drawn([2**62, 5, 9])
    for name in ("t_B", "gaussian_BSD", "hide_context_B"):
        assert torch.equal(getattr(together, name)[1:2], getattr(alone, name))
        assert torch.equal(getattr(together, name), getattr(shuffled, name)[[1, 2, 0]])
    assert not torch.equal(together.gaussian_BSD[0], together.gaussian_BSD[1])


def test_start_fraction_and_context_dropout_are_shares_of_sets():
    keys = list(range(1000))
    assert (drawn(keys, start_fraction=1.0).t_B == 0).all()
    never = drawn(keys, start_fraction=0.0, context_dropout=0.0)
    assert (never.t_B > 0).all()
    assert (never.t_B < 1).all()
    assert not never.hide_context_B.any()
    assert drawn(keys, context_dropout=1.0).hide_context_B.all()
    some = drawn(keys)
    assert (some.t_B == 0).float().mean().item() == pytest.approx(0.3, abs=0.05)
    assert some.hide_context_B.float().mean().item() == pytest.approx(0.3, abs=0.05)
    # Times that are not the start stay uniform over [0, 1).
    assert some.t_B[some.t_B > 0].mean().item() == pytest.approx(0.5, abs=0.05)


def test_optimal_transport_pairs_the_nearest_and_leaves_padding_alone():
    z0 = torch.tensor([[0.0], [10.0], [20.0], [0.0]])[None]
    z1 = torch.tensor([[19.0], [1.0], [11.0], [0.0]])[None]
    everyone = torch.ones(1, 4, dtype=torch.bool)
    three = torch.tensor([[True, True, True, False]])
    assert optimal_transport_order(z0, z1, three).tolist() == [[1, 2, 0, 3]]
    order = optimal_transport_order(z0, z1, everyone)
    paired = in_order(z1, order)
    assert torch.equal(in_order(z1[..., 0], order), paired[..., 0])
    assert (paired - z0).square().sum().item() == 3.0  # 0-1 or 0-0, 10-11, 20-19
    assert sorted(order[0].tolist()) == [0, 1, 2, 3]


def test_optimal_transport_of_an_empty_set_changes_nothing():
    order = optimal_transport_order(latents(), latents(), MASK)
    assert order[3].tolist() == list(range(S))
    assert order[1, 3:].tolist() == [3, 4, 5]


def test_means_over_cells_leave_padding_out_and_an_empty_set_is_zero():
    value = torch.where(MASK[..., None], torch.ones(B, S, D), torch.full((B, S, D), float("nan")))
    assert over_cells(value, MASK).tolist() == [1.0, 1.0, 1.0, 0.0]


def test_mean_over_ranks_is_the_mean_of_one_process():
    losses = over_cells(latents().square(), MASK)
    halves = torch.stack([over_sets(losses[:2]), over_sets(losses[2:])])
    torch.testing.assert_close(halves.mean(), over_sets(losses))
