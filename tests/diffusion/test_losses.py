import pytest
import torch

from medart_cli.diffusion.losses import color_loss, color_moments, min_snr_weights, noise_loss


def test_a_shift_of_every_pixel_costs_its_square_in_each_channel():
    real = torch.rand(2, 3, 8, 8)
    assert color_loss(real + 0.5, color_moments(real)).item() == pytest.approx(3 * 0.25, abs=1e-5)


def test_the_color_loss_has_the_value_computed_by_hand():
    # Two pixels a channel: mean (a + b) / 2, unbiased deviation |a - b| / sqrt(2).
    generated = torch.tensor([[0.0, 2.0], [1.0, 1.0], [0.0, 0.0]]).reshape(1, 3, 1, 2)
    real = torch.tensor([[0.0, 0.0], [0.0, 2.0], [1.0, 1.0]]).reshape(1, 3, 1, 2)
    # means: 1-0, 1-1, 0-1; squared deviations' gap: (sqrt 2 - 0)^2, (0 - sqrt 2)^2, 0
    by_hand = (1 + 0 + 1) + (2 + 2 + 0)
    assert color_loss(generated, color_moments(real)).item() == pytest.approx(by_hand)


def test_rows_are_averaged_and_channels_are_summed():
    real = torch.zeros(2, 3, 4, 4)
    generated = torch.zeros(2, 3, 4, 4)
    generated[1] += 1.0
    assert color_loss(generated, color_moments(real)).item() == pytest.approx((0 + 3) / 2)


def test_each_row_is_held_against_its_own_reference():
    images = torch.rand(3, 3, 8, 8)
    assert color_loss(images, color_moments(images)).item() == 0
    assert color_loss(images, color_moments(images.roll(1, 0))).item() > 0


def test_a_flat_image_has_a_finite_gradient():
    generated = torch.zeros(1, 3, 8, 8, requires_grad=True)
    color_loss(generated, color_moments(torch.rand(1, 3, 8, 8))).backward()
    assert torch.isfinite(generated.grad).all()
    assert generated.grad.abs().sum() > 0


def test_a_wrong_number_of_references_is_refused():
    with pytest.raises(ValueError, match="2 images against moments"):
        color_loss(torch.rand(2, 3, 8, 8), color_moments(torch.rand(1, 3, 8, 8)))
    with pytest.raises(ValueError, match="expected images"):
        color_moments(torch.rand(1, 4, 8, 8))


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
