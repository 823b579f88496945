"""What an address is of: a file, a folder, a page that shows either."""

from __future__ import annotations

import pytest

from doppler.errors import SourceError
from doppler.page.addresses import (
    Repository,
    absolute,
    folder_name,
    in_folder,
    is_gguf,
    is_in_checkpoint,
    repository,
    resolved,
)

HUB = "https://huggingface.co"


@pytest.mark.parametrize(
    ("page", "address"),
    [
        (f"{HUB}/org/model", f"{HUB}/org/model/resolve/main/"),
        (f"{HUB}/org/model/", f"{HUB}/org/model/resolve/main/"),
        (f"{HUB}/org/model/tree/main", f"{HUB}/org/model/resolve/main/"),
        (f"{HUB}/org/model/tree/v1/part", f"{HUB}/org/model/resolve/v1/part/"),
        (f"{HUB}/org/m/blob/main/m.Q4_0.gguf", f"{HUB}/org/m/resolve/main/m.Q4_0.gguf"),
        (f"{HUB}/org/m/resolve/main/m.gguf?download=true",) * 2,
        (f"{HUB}/org",) * 2,
        ("https://example.org/org/model",) * 2,
        ("https://example.org/org/model/tree/main",) * 2,
    ],
)
def test_pages_of_the_hub(page: str, address: str) -> None:
    assert resolved(page) == address


@pytest.mark.parametrize(
    ("url", "config", "name"),
    [
        ("https://a.b/org/Model-1.5/resolve/main/", "resolve/main/config.json", "Model-1.5"),
        ("https://a.b/org/Model-1.5/resolve/main", "resolve/main/config.json", "Model-1.5"),
        ("https://a.b/x/My%20Model/config.json", "x/My%20Model/config.json", "My Model"),
        ("https://a.b/x/m/model.safetensors?k=1", "x/m/config.json?k=1", "m"),
        ("https://a.b/x/m/model.safetensors.index.json#top", "x/m/config.json", "m"),
        ("https://a.b/", "config.json", "model"),
        ("https://a.b/config.json", "config.json", "model"),
    ],
)
def test_folders(url: str, config: str, name: str) -> None:
    found = in_folder(url, "config.json")
    assert found.startswith("https://a.b/")
    assert found.endswith(f"/{config}")
    assert folder_name(url) == name


def test_kinds() -> None:
    assert is_gguf("https://a.b/m-00001-of-00002.GGUF?download=true")
    assert not is_gguf("https://a.b/gguf/")
    assert not is_gguf("https://a.b/config.json?file=m.gguf")
    assert is_in_checkpoint("https://a.b/m/")
    assert is_in_checkpoint("https://a.b/m/model-00001-of-00002.safetensors?k=1")
    assert not is_in_checkpoint("https://a.b/download")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("org/Model-1.5_GGUF", f"{HUB}/org/Model-1.5_GGUF"),
        (" org/model ", f"{HUB}/org/model"),
        ("huggingface.co/org/model", f"{HUB}/org/model"),
        ("hf.co/org/model/tree/v1", f"{HUB}/org/model/tree/v1"),
        ("https://hf.co/org/model", f"{HUB}/org/model"),
        ("https://a.b/org/model", "https://a.b/org/model"),
        ("models/tiny.gguf", "http://here/page/models/tiny.gguf"),
        ("models/tiny/manifest.json", "http://here/page/models/tiny/manifest.json"),
        ("/org/model", "http://here/org/model"),
        ("../org/model", "http://here/org/model"),
    ],
)
def test_what_is_typed(typed: str, meant: str) -> None:
    assert absolute(typed, "http://here/page/") == meant


@pytest.mark.parametrize(
    ("url", "place"),
    [
        (f"{HUB}/org/m", Repository(HUB, "org/m")),
        (f"{HUB}/org/m/", Repository(HUB, "org/m")),
        (f"{HUB}/org/m?not-for-all-audiences", Repository(HUB, "org/m")),
        ("http://a.b:8000/org/m", Repository("http://a.b:8000", "org/m")),
        (f"{HUB}/org/m/tree/v1", Repository(HUB, "org/m", "v1")),
        (f"{HUB}/org/m/tree/refs%2Fpr%2F1", Repository(HUB, "org/m", "refs%2Fpr%2F1")),
        (f"{HUB}/org/m/tree/main/a%20b/c", Repository(HUB, "org/m", "main", "a b/c")),
        (f"{HUB}/org/m/tree", None),
        (f"{HUB}/org", None),
        (f"{HUB}/org/m/resolve/main/", None),
        (f"{HUB}/org/m/blob/main/m.gguf", None),
        ("https://a.b/models/m.gguf", None),
        ("https://a.b/m/config.json", None),
    ],
)
def test_repositories(url: str, place: Repository | None) -> None:
    assert repository(url) == place


def test_addresses_of_a_repository() -> None:
    place = Repository(HUB, "org/m", "refs%2Fpr%2F1", "a b")
    assert place.listing == f"{HUB}/api/models/org/m/tree/refs%2Fpr%2F1/a%20b?recursive=true"
    assert place.file("a b/m#1.gguf") == f"{HUB}/org/m/resolve/refs%2Fpr%2F1/a%20b/m%231.gguf"


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "http://",
        "https:",
        "http://[bad",
        "not an address",
        "javascript:alert(1)",
        "file:///etc/passwd",
        "data:text/plain,x",
        "blob:http://here/1",
    ],
)
def test_what_is_no_address(typed: str) -> None:
    with pytest.raises(SourceError, match="is no address of a model; give one"):
        absolute(typed, "http://here/page/")
