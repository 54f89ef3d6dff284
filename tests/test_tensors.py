"""Shapes and random numbers of batches."""

import pytest
import torch

from monai_diffscore.tensors import noise_like, per_channel, per_sample, random_stream


@pytest.mark.parametrize(("values", "shape"), [((3,), (3, 1, 1, 1)), ((3, 2), (3, 2, 1, 1)), ((), (1, 1, 1, 1))])
def test_numbers_of_samples_broadcast_against_the_batch(values, shape):
    x = torch.zeros(3, 2, 4, 5)
    numbers = torch.arange(torch.Size(values).numel()).double().reshape(values)
    broadcast = per_sample(numbers, x)
    assert broadcast.shape == shape
    torch.testing.assert_close(broadcast.flatten(), numbers.flatten(), rtol=0, atol=0)


def test_numbers_of_channels_broadcast_against_one_image():
    image = torch.ones(2, 3, 3)
    torch.testing.assert_close(
        (per_channel(torch.tensor([1.0, 5.0]), image) * image).mean((1, 2)), torch.tensor([1.0, 5.0])
    )


def test_noise_of_a_sample_does_not_depend_on_its_batch():
    def draw(seeds):
        return noise_like(torch.empty(len(seeds), 4), [torch.Generator().manual_seed(s) for s in seeds])

    torch.testing.assert_close(draw([1, 2, 3])[2], draw([3])[0], rtol=0, atol=0)
    with pytest.raises(ValueError, match="one generator per sample"):
        noise_like(torch.empty(3, 4), [torch.Generator()])


def test_random_streams_repeat_and_differ():
    def draw(*key):
        return torch.randn(4, generator=random_stream(*key)).tolist()

    assert draw(0, 7) == draw(0, 7)
    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 0, 1), (0, 2**40, 3), (2**40, 0, 3)]
    assert len({tuple(draw(*key)) for key in keys}) == len(keys)
