import itertools

import numpy as np
import pytest
import torch

from medart_cli.diffusion.losses import (
    STATISTICS,
    color_moments,
    color_statistics,
    energy_score,
    min_snr_weights,
    noise_loss,
    squared_gap,
)


def color_loss(generated, real):
    """The published color loss, from images."""
    return squared_gap(color_moments(generated), color_moments(real))


def test_a_shift_of_every_pixel_costs_its_square_in_each_channel():
    real = torch.rand(2, 3, 8, 8)
    assert color_loss(real + 0.5, real).item() == pytest.approx(3 * 0.25, abs=1e-5)


def test_the_color_loss_has_the_value_computed_by_hand():
    # Two pixels a channel: mean (a + b) / 2, unbiased deviation |a - b| / sqrt(2).
    generated = torch.tensor([[0.0, 2.0], [1.0, 1.0], [0.0, 0.0]]).reshape(1, 3, 1, 2)
    real = torch.tensor([[0.0, 0.0], [0.0, 2.0], [1.0, 1.0]]).reshape(1, 3, 1, 2)
    # means: 1-0, 1-1, 0-1; squared deviations' gap: (sqrt 2 - 0)^2, (0 - sqrt 2)^2, 0
    by_hand = (1 + 0 + 1) + (2 + 2 + 0)
    assert color_loss(generated, real).item() == pytest.approx(by_hand)


def test_rows_are_averaged_and_channels_are_summed():
    real = torch.zeros(2, 3, 4, 4)
    generated = torch.zeros(2, 3, 4, 4)
    generated[1] += 1.0
    assert color_loss(generated, real).item() == pytest.approx((0 + 3) / 2)


def test_each_row_is_held_against_its_own_reference():
    images = torch.rand(3, 3, 8, 8)
    assert color_loss(images, images).item() == 0
    assert color_loss(images, images.roll(1, 0)).item() > 0


def test_a_flat_image_has_a_finite_gradient():
    generated = torch.zeros(1, 3, 8, 8, requires_grad=True)
    color_loss(generated, torch.rand(1, 3, 8, 8)).backward()
    assert torch.isfinite(generated.grad).all()
    assert generated.grad.abs().sum() > 0


def test_a_wrong_number_of_references_is_refused():
    with pytest.raises(ValueError, match=r"generated images \(2, 6\) against real \(1, 6\)"):
        color_loss(torch.rand(2, 3, 8, 8), torch.rand(1, 3, 8, 8))
    with pytest.raises(ValueError, match="generated images"):
        energy_score(torch.rand(1, 2, 6), torch.rand(2, 6))  # one image a row has no partner
    with pytest.raises(ValueError, match="generated images"):
        energy_score(torch.rand(2, 3, 6), torch.rand(2, 6))
    with pytest.raises(ValueError, match="expected images"):
        color_moments(torch.rand(1, 4, 8, 8))


def score_by_hand(drawn, real):
    """The energy score in plain NumPy loops: (K, B, 3, H, W) images, (B, 3, H, W)."""

    def tell(image):
        pixels = image.reshape(3, -1)
        return np.concatenate([pixels.mean(axis=1), pixels.std(axis=1, ddof=1)])

    rows = []
    for row, reference in enumerate(real):
        told = [tell(image) for image in drawn[:, row]]
        near = [np.sqrt(((one - tell(reference)) ** 2).sum()) for one in told]
        apart = [np.sqrt(((a - b) ** 2).sum()) for a, b in itertools.permutations(told, 2)]
        rows.append(2 * np.mean(near) - np.mean(apart))
    return np.mean(rows)


@pytest.mark.parametrize("draws", [2, 3, 4])
def test_the_energy_score_and_its_gradient_are_those_of_plain_loops(draws):
    generator = np.random.default_rng(draws)
    drawn, real = generator.normal(size=(draws, 2, 3, 4, 5)), generator.normal(size=(2, 3, 4, 5))
    images = torch.from_numpy(drawn).requires_grad_(True)
    told = torch.stack([color_moments(item) for item in images])
    score = energy_score(told, color_moments(torch.from_numpy(real)))
    assert score.item() == pytest.approx(score_by_hand(drawn, real), rel=1e-12)
    score.backward()
    for place in [(0, 0, 0, 0, 0), (1, 1, 2, 3, 4), (draws - 1, 0, 1, 2, 2)]:
        values = []
        for shift in (1e-6, -1e-6):
            moved = drawn.copy()
            moved[place] += shift
            values.append(score_by_hand(moved, real))
        slope = (values[0] - values[1]) / 2e-6
        assert images.grad[place].item() == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_two_draws_give_the_score_as_it_is_written():
    one, two, real = (torch.tensor([[value, 0.0]]) for value in (3.0, -1.0, 1.0))
    score = energy_score(torch.stack([one, two]), real)
    assert score.item() == pytest.approx(2 + 2 - 4)


def test_equal_draws_have_a_finite_gradient():
    told = torch.ones(2, 1, 6, requires_grad=True)
    energy_score(told, torch.ones(1, 6)).backward()
    assert torch.isfinite(told.grad).all()


@pytest.mark.parametrize(("draws", "with_gradient"), [(2, 1), (3, 1), (3, 2)])
def test_a_part_of_the_draws_has_on_average_the_gradient_of_all(draws, with_gradient):
    """Which draws carry the gradient is exchangeable: averaged over the choice it is exact."""
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    drawn = torch.randn(draws, 3, 6, generator=generator, dtype=torch.float64)
    center = torch.zeros(6, dtype=torch.float64, requires_grad=True)  # moves all images

    def slope(chosen):
        told = [row + (center if k in chosen else center.detach()) for k, row in enumerate(drawn)]
        return torch.autograd.grad(energy_score(torch.stack(told), real), center)[0]

    whole = slope(range(draws))
    parts = [slope(chosen) for chosen in itertools.combinations(range(draws), with_gradient)]
    average = torch.stack(parts).mean(dim=0) * draws / with_gradient
    torch.testing.assert_close(average, whole)


@pytest.mark.parametrize(("name", "spread"), [("published", 0.0), ("score", 0.3)])
def test_the_published_loss_takes_variety_away_and_the_score_learns_it(name, spread):
    """A generator of colors with a mean and a spread of its own, and real colors with 0.2, 0.3."""
    generator = torch.Generator().manual_seed(1)
    mean, width = (torch.tensor(value, requires_grad=True) for value in (0.6, 0.6))
    optimizer = torch.optim.Adam([mean, width], lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1500)
    for _ in range(1500):
        real = 0.2 + 0.3 * torch.randn(64, 1, generator=generator)
        drawn = mean + width * torch.randn(2, 64, 1, generator=generator)
        loss = squared_gap(drawn[0], real) if name == "published" else energy_score(drawn, real)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    assert mean.item() == pytest.approx(0.2, abs=0.03)
    assert abs(width.item()) == pytest.approx(spread, abs=0.04)


@pytest.mark.parametrize("name", sorted(STATISTICS))
def test_statistics_are_differentiable_and_as_many_as_they_say(name):
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    told = color_statistics(images, [name])
    assert told.shape == (2, {"moments": 6, "grid": 48}[name])
    assert torch.autograd.gradcheck(lambda item: color_statistics(item, [name]), images)


def test_the_grid_tells_where_a_color_lies_and_the_moments_do_not():
    image = torch.rand(1, 3, 8, 8)
    turned = image.flip(3)
    torch.testing.assert_close(color_moments(image), color_moments(turned))
    gap = color_statistics(image, ["grid"]) - color_statistics(turned, ["grid"])
    cells = image.unflatten(3, (4, 2)).unflatten(2, (4, 2)).mean(dim=(3, 5))  # (1, 3, 4, 4)
    by_hand = (cells - cells.flip(3)).square().sum(dim=1).mean()
    assert gap.square().sum().item() == pytest.approx(by_hand.item(), rel=1e-4)


def test_several_statistics_stand_one_after_the_other():
    images = torch.rand(2, 3, 8, 8)
    both = color_statistics(images, ["moments", "grid"])
    torch.testing.assert_close(both[:, :6], color_moments(images))
    torch.testing.assert_close(both[:, 6:], color_statistics(images, ["grid"]))


def test_the_noise_loss_is_the_mean_squared_error():
    predicted, noise = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    expected = torch.nn.functional.mse_loss(predicted, noise)
    torch.testing.assert_close(noise_loss(predicted, noise), expected)


def test_weights_scale_the_rows_of_the_noise_loss():
    predicted, noise = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    first = noise_loss(predicted[:1], noise[:1])
    weighted = noise_loss(predicted, noise, torch.tensor([2.0, 0.0]))
    torch.testing.assert_close(weighted, first)


def test_min_snr_leaves_noisy_rows_alone_and_damps_clean_ones():
    weights = min_snr_weights(torch.tensor([0.5, 5.0, 50.0]), 5.0)
    torch.testing.assert_close(weights, torch.tensor([1.0, 1.0, 0.1]))


def test_min_snr_of_velocity_is_that_of_noise_in_the_same_units():
    """A velocity's squared error is (ratio + 1) / ratio times that of the noise it stands for."""
    ratio = torch.tensor([0.01, 1.0, 5.0, 300.0])
    expected = min_snr_weights(ratio, 5.0) * ratio / (ratio + 1)
    torch.testing.assert_close(min_snr_weights(ratio, 5.0, velocity=True), expected)


def test_weights_of_places_are_those_of_a_plain_loop():
    generator = torch.Generator().manual_seed(0)
    predicted, target = torch.randn(2, 2, 3, 4, 4, generator=generator).double()
    pixels, rows = torch.rand(2, 1, 4, 4, generator=generator).double(), torch.tensor([0.5, 2.0])
    total = 0.0
    for row in range(2):
        own = 0.0
        for channel in range(3):
            for y in range(4):
                for x in range(4):
                    gap = predicted[row, channel, y, x] - target[row, channel, y, x]
                    own += pixels[row, 0, y, x] * gap**2 / 48
        total += rows[row] * own / 2
    torch.testing.assert_close(noise_loss(predicted, target, rows, pixels), total)
    equal = torch.ones_like(pixels)
    assert torch.equal(
        noise_loss(predicted, target, rows, equal), noise_loss(predicted, target, rows)
    )


def test_weighted_moments_are_those_of_a_plain_loop_and_of_numpy():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 5, 4, generator=generator).double()
    counts = torch.randint(0, 4, (1, 1, 5, 4), generator=generator).double()
    found = color_moments(images, counts)
    for row in range(2):
        for channel in range(3):
            values, weights = images[row, channel].flatten(), counts.flatten()
            total = sum(weights)
            mean = sum(w * v for w, v in zip(weights, values, strict=True)) / total
            squares = sum(w * (v - mean) ** 2 for w, v in zip(weights, values, strict=True))
            size = total - sum(w**2 for w in weights) / total
            torch.testing.assert_close(found[row, channel], mean)
            torch.testing.assert_close(found[row, 3 + channel], (squares / size).sqrt())
            cov = np.cov(values.numpy(), aweights=weights.numpy())
            assert found[row, 3 + channel].item() ** 2 == pytest.approx(float(cov))


def test_pixels_that_weigh_nothing_say_nothing_and_equal_weights_change_nothing():
    images = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)).double()
    inside = torch.zeros(1, 1, 6, 6, dtype=torch.float64)
    inside[..., 1:4, 2:5] = 1
    torch.testing.assert_close(color_moments(images, inside), color_moments(images[..., 1:4, 2:5]))
    torch.testing.assert_close(
        color_moments(images, torch.full_like(inside, 0.3)), color_moments(images)
    )


def test_the_gradient_of_weighted_moments_agrees_with_finite_differences():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, 3, 4, 4, generator=generator).double().requires_grad_(True)
    weights = torch.rand(1, 1, 4, 4, generator=generator).double()
    assert torch.autograd.gradcheck(lambda it: color_moments(it, weights), images)
    flat = torch.full((1, 3, 4, 4), 0.25, dtype=torch.float64, requires_grad=True)
    gradient = torch.autograd.grad(color_moments(flat, weights)[:, 3:].sum(), flat)[0]
    assert torch.equal(gradient, torch.zeros_like(flat))


def test_the_grid_has_no_weights():
    images, weights = torch.zeros(1, 3, 8, 8), torch.ones(1, 1, 8, 8)
    with pytest.raises(ValueError, match="of moments, grid, only moments can be weighted"):
        color_statistics(images, ["moments", "grid"], weights)
