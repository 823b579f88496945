"""Cases of the workbench, in a browser, beside their NumPy twins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from case_choice import chosen
from doppler.gpu.sources import FOLDERS
from doppler.workbench.case import Case
from doppler.workbench.cases import attention
from doppler.workbench.cases.inputs import case
from doppler.workbench.cases.sample import DRAWS
from doppler.workbench.catalogue import CASES, cases_of
from doppler.workbench.features import lacking
from gpu_page import GpuPage

KERNELS = [kernel for folder, names in FOLDERS.items() if folder != "include" for kernel in names]


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel(gpu_page: GpuPage, kernel: str) -> None:
    """Each output within the case's margin; what is to stay as it was has stayed."""
    able = [case for case in cases_of(kernel) if not lacking(case, gpu_page.features)]
    check(gpu_page, chosen([case for case in able if case not in DRAWS]))


@pytest.mark.every_case
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel_in_every_case(gpu_page: GpuPage, kernel: str) -> None:
    check(gpu_page, [case for case in cases_of(kernel) if case not in DRAWS])


def check(gpu_page: GpuPage, cases: Sequence[Case]) -> None:
    wrong = [
        f"{case.name}: {output} {found}"
        for case, output, found in gpu_page.compared(cases)
        if not found.within
    ]
    assert not wrong, "\n".join(wrong)


def test_scores_that_are_no_numbers_are_not_capped(gpu_page: GpuPage) -> None:
    """They would be numbers then, and the answer would go on."""
    place, kept = attention.Place(2, 1, 5, 3, 0), attention.Kept("f32", None, False, attention.CAP)
    trial = case("attention", "no number", attention.batch, "attention", place, kept, 24).trial()
    trial.arrays["qkv"][0, 0] = np.nan
    (got,) = gpu_page.run([trial])
    is_number = np.isfinite(got["out"][:3, :48].reshape(6, 24))
    assert not is_number[0].any()
    assert is_number[1:].all()


def test_draws(gpu_page: GpuPage) -> None:
    """Within the twin's choices always, and its very token but where exp's last bit decides.

    The vocabularies make that improbable; two such draws would be a mistake of the kernel.
    """
    wrong = {
        (case.name, output) for case, output, found in gpu_page.compared(DRAWS) if not found.within
    }
    assert {output for _, output in wrong} <= {"tokens"}
    assert len(wrong) <= 1, wrong


@pytest.mark.parametrize("feature", sorted({it for case in CASES for it in case.needs}))
def test_cases_that_need_a_feature_were_run(gpu_page: GpuPage, feature: str) -> None:
    """Told, where they were not."""
    cases = [case for case in CASES if feature in case.needs]
    assert cases
    if feature not in gpu_page.features:
        assert all(lacking(case, gpu_page.features) for case in cases)
        pytest.skip(f"{len(cases)} cases were not run: this adapter has no {feature}")
