"""Inputs that differ in every update."""

import dataclasses

import torch

from ntensor.faces.configuration import TrainingConfiguration
from ntensor.faces.training.augmentation import draw_augmentation
from ntensor.faces.training.draws import Draws

PLAIN = {
    "tone": torch.zeros(1, 3),
    "colour": torch.zeros(1, 3),
    "chosen": torch.zeros(1, 3, dtype=torch.bool),
    "noise": torch.zeros(1, 3, 16, 16),
    "move": torch.zeros(1, 3),
}


class Process:
    device = torch.device("cpu")

    def __init__(self, rank, world):
        self.rank, self.world = rank, world


def draw(**changed):
    return draw_augmentation(0, 1, 16, 0)._replace(**{**PLAIN, **changed})


def test_nothing_drawn_changes_nothing():
    image = 0.1 + 0.8 * torch.rand(1, 3, 16, 16)
    for moves in (False, True):
        torch.testing.assert_close(draw().apply(image, moves), image)


def test_each_change_is_what_it_says():
    image = 0.2 + 0.5 * torch.rand(1, 3, 16, 16)
    brighter = draw(tone=torch.tensor([[0.3, 0.0, 0.0]])).apply(image, False)
    torch.testing.assert_close(brighter, image * torch.tensor(0.3).exp())
    steeper = draw(tone=torch.tensor([[0.0, 0.2, 0.0]])).apply(image, False)
    torch.testing.assert_close(
        steeper, image.mean() + torch.tensor(0.2).exp() * (image - image.mean())
    )
    curved = draw(tone=torch.tensor([[0.0, 0.0, 0.4]])).apply(image, False)
    torch.testing.assert_close(curved, image ** torch.tensor(0.4).exp())
    grey = draw(chosen=torch.tensor([[True, False, False]])).apply(image, False)
    torch.testing.assert_close(grey, image.mean(1, keepdim=True).expand_as(image))
    cover = torch.tensor([[0.25, 0.5, 0.125, 0.25, 1.0, 0.0, 0.5]])
    covered = draw(chosen=torch.tensor([[False, True, False]]), cover=cover).apply(image, False)
    torch.testing.assert_close(covered[0, :, 8, 4], torch.tensor([1.0, 0.0, 0.5]))
    assert torch.equal((covered != image).any(1).sum(), torch.tensor(4 * 8))
    moved = draw(move=torch.tensor([[0.0, 0.25, 0.0]])).apply(image, True)
    torch.testing.assert_close(moved[..., :14], image[..., 2:])


def test_an_update_is_dealt_to_parts_and_processes():
    """Two processes with two parts see together what one process sees."""
    image = torch.rand(8, 3, 16, 16)
    settings = TrainingConfiguration(batch_size=8, augment=True)
    whole = Draws(settings, Process(0, 1), True)
    alone = whole.vary_input({"image": image}, 5, 0, True)["input"]
    fits = whole.draw_fits(5, 0, 8)
    split = dataclasses.replace(settings, accumulation=2)
    for part in range(2):
        for rank in range(2):
            rows = slice(4 * part + 2 * rank, 4 * part + 2 * rank + 2)
            draws = Draws(split, Process(rank, 2), True)
            seen = draws.vary_input({"image": image[rows]}, 5, part, True)["input"]
            assert torch.equal(seen, alone[rows])
            assert torch.equal(draws.draw_fits(5, part, 2), fits[rows])
    other = whole.vary_input({"image": image}, 6, 0, True)["input"]
    assert not torch.equal(other, alone)


def test_without_it_the_batch_is_the_same():
    batch = {"image": torch.rand(2, 3, 16, 16)}
    assert (
        Draws(TrainingConfiguration(batch_size=2), Process(0, 1), False).vary_input(
            batch, 0, 0, True
        )
        is batch
    )
