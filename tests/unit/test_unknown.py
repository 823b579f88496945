"""Families that are refused: by name, with the nearest one and what is missing."""

from __future__ import annotations

import pytest

from doppler.errors import UnsupportedError
from doppler.formats.architectures import ARCHITECTURES, of_gguf, of_hf
from doppler.formats.unknown import NEAREST

KNOWN = {it.name for it in ARCHITECTURES}


@pytest.mark.parametrize("name", NEAREST)
def test_a_family_that_is_missing_is_told_beside_the_nearest(name: str) -> None:
    nearest, missing = NEAREST[name]
    assert nearest in KNOWN
    assert name not in KNOWN | {kind for it in ARCHITECTURES for kind in it.hf_types}
    told = f"'{name}', which is nearest to {nearest} and takes besides "
    for find in (of_hf, lambda it, where: of_gguf(it, False, where)):
        with pytest.raises(UnsupportedError) as error:
            find(name, "the file")
        assert told + missing in str(error.value)


def test_a_name_that_is_nearly_known() -> None:
    with pytest.raises(UnsupportedError, match="'llamma', whose name is like llama; it knows "):
        of_hf("llamma", "config.json")


@pytest.mark.parametrize("name", ["xyz", 3, None])
def test_a_name_that_is_like_none(name: object) -> None:
    with pytest.raises(UnsupportedError, match=r"does not know the architecture [^,]+; it knows"):
        of_hf(name, "config.json")
