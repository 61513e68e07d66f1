import pytest
import sphericart
import torch

from sklearn_soapbpnn.descriptors._harmonics import SphericalHarmonics


@pytest.mark.parametrize("max_angular", [0, 1, 2, 6, 10])
def test_agrees_with_sphericart(max_angular):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(300, 3, generator=generator, dtype=torch.float64)
    vectors[:3] = 1.5 * torch.eye(3)
    distances = vectors.norm(dim=1)
    harmonics = SphericalHarmonics(max_angular).double()
    reference = sphericart.SphericalHarmonics(max_angular)
    expected, gradient = reference.compute_with_gradients(vectors.numpy())
    values, slopes = harmonics.differentiate(vectors / distances[:, None], distances)
    options = {"rtol": 0, "atol": 1e-11}
    torch.testing.assert_close(values, torch.from_numpy(expected), **options)
    torch.testing.assert_close(harmonics(vectors / distances[:, None]), values, **options)
    torch.testing.assert_close(slopes, torch.from_numpy(gradient), **options)


def test_single_precision_loses_no_digits():
    vectors = torch.randn(300, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    distances = vectors.norm(dim=1)
    directions = vectors / distances[:, None]
    exact = SphericalHarmonics(8).double().differentiate(directions, distances)
    single = SphericalHarmonics(8).float().differentiate(directions.float(), distances.float())
    for values, expected in zip(single, exact):
        error = (values - expected).abs().max() / expected.abs().max()
        assert error < 1e-6
