"""Every case of the workbench, in a browser, beside its NumPy twin."""

from __future__ import annotations

import pytest

from doppler.gpu.sources import FOLDERS
from doppler.workbench.cases.sample import DRAWS
from doppler.workbench.catalogue import CASES, cases_of
from doppler.workbench.features import lacking
from gpu_page import GpuPage

KERNELS = [kernel for folder, names in FOLDERS.items() if folder != "include" for kernel in names]


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel(gpu_page: GpuPage, kernel: str) -> None:
    """Each output within the case's margin; what is to stay as it was has stayed."""
    cases = [case for case in cases_of(kernel) if case not in DRAWS]
    wrong = [
        f"{case.name}: {output} {found}"
        for case, output, found in gpu_page.compared(cases)
        if not found.within
    ]
    assert not wrong, "\n".join(wrong)


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
