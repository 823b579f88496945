"""What the samplers' tokens are over many draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from doppler.sampling import Sampling
from doppler.workbench.cases.sample import Draw
from doppler.workbench.compare import compare
from gpu_page import GpuPage


def tokens_of(gpu_page: GpuPage, draws: Sequence[Draw]) -> list[int]:
    """The sampled ids, after a check of everything else that the kernels write."""
    trials = [draw.trial() for draw in draws]
    found = gpu_page.run(trials)
    for draw, trial, outputs in zip(draws, trials, found, strict=True):
        assert int(outputs["tokens"][0]) in draw.choice.kept
        expected = trial.twin(outputs)
        expected["tokens"].values[0] = outputs["tokens"][0]
        assert all(compare(outputs[name], right).within for name, right in expected.items())
    return [int(outputs["tokens"][0]) for outputs in found]


def test_ties_at_a_threshold_are_all_kept(gpu_page: GpuPage) -> None:
    """Of equal logits at the k-th place none is preferred."""
    values = np.array([0.0, 2.0, 1.0, 1.0, 1.0, -5.0], np.float32)
    for setting in (Sampling(top_k=2), Sampling(top_p=0.6)):
        draws = [Draw(values, replace(setting, seed=n)) for n in range(60)]
        assert set(tokens_of(gpu_page, draws)) == {1, 2, 3, 4}


def test_frequencies(gpu_page: GpuPage) -> None:
    """Over seeds and steps, tokens come as often as their probabilities say (chi-square)."""
    probabilities = np.array([0.4, 0.25, 0.15, 0.1, 0.06, 0.04])
    values = np.log(probabilities).astype(np.float32)
    draws = [Draw(values, Sampling(seed=n // 20), step=n % 20) for n in range(600)]
    counts = np.bincount(tokens_of(gpu_page, draws), minlength=6)
    expected = probabilities * len(draws)
    # 25.7 is exceeded in one of 10,000 samples of five degrees of freedom; seeds are fixed here.
    assert ((counts - expected) ** 2 / expected).sum() < 25.7
