"""The workbench on CPython: cases and their twins, errors of outputs, arrays as JSON."""

from __future__ import annotations

import base64
import itertools
from typing import Any

import gguf
import numpy as np
import pytest
from blake3 import blake3 as official_blake3

from doppler import references
from doppler.errors import DeviceError, RequestError
from doppler.gpu.sources import FOLDERS, SHARED
from doppler.gpu.wgsl import parse
from doppler.plan.tiles import MOST_THREADS, tile_of
from doppler.weights.placement import FORMS
from doppler.workbench import blake3
from doppler.workbench.case import Expected, Launch, inside
from doppler.workbench.cases.load import OFFICIAL, RANDOM, official_input
from doppler.workbench.cases.weights import Matrix, columns
from doppler.workbench.catalogue import CASES, cases_of, find
from doppler.workbench.compare import compare
from doppler.workbench.features import lacking
from doppler.workbench.given import arrays_of, launch_of, outputs_of
from gpu_page import ROOT

SOURCES = {path.stem: path.read_text() for path in (ROOT / "web/kernels").rglob("*.wgsl")}
# Of the official test_vectors.json, the first 32 bytes of the digests of some: the package is not
# all we trust.
KNOWN = {
    0: "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    1: "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
    1023: "10108970eeda3eb932baac1428c7a2163b0e924c9a9e25b35bba72b28f70bd11",
    1024: "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7",
    1025: "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444",
}


def test_every_kernel_has_cases_with_names_of_their_own() -> None:
    kernels = [name for folder in FOLDERS.values() for name in folder if name not in SHARED]
    assert {case.kernel for case in CASES} == set(kernels)
    for kernel in kernels:
        names = [case.name for case in cases_of(kernel)]
        assert len(set(names)) == len(names)


def test_launches_give_what_the_kernels_ask_for() -> None:
    """Each kernel that a case launches is its own or comes beside it; all is bound that is made."""
    shaders = {name: parse(name, SOURCES) for name in SOURCES.keys() - SHARED}
    seen: set[str] = set()
    for case in CASES:
        if (case.kernel, case.needs) in seen:
            continue
        seen.add((case.kernel, case.needs))  # type: ignore[arg-type]
        trial = case.trial()
        assert case.kernel in [launch.kernel for launch in trial.launches]
        bound = {array for launch in trial.launches for array in launch.bindings.values()}
        assert bound == trial.arrays.keys() >= set(trial.outputs)
        for launch in trial.launches:
            shader = shaders[launch.kernel]
            shader.pack(launch.params)
            assert shader.overrides == launch.constants.keys()
            assert launch.bindings.keys() <= {binding.name for binding in shader.bindings}


def test_a_case_is_the_same_whenever_it_is_made() -> None:
    first, second = (find("norm", "3 tokens of 67, branch").trial() for _ in range(2))
    for name, values in first.arrays.items():
        np.testing.assert_array_equal(values, second.arrays[name])
    with pytest.raises(RequestError, match="kernel norm has no case 'none'"):
        find("norm", "none")


def test_what_a_device_lacks() -> None:
    half = next(case for case in cases_of("matmul_tile") if case.needs)
    assert lacking(half, {"subgroups"}) == ["shader-f16"]
    assert lacking(half, {"subgroups", "shader-f16"}) == []


@pytest.mark.parametrize("length", [*OFFICIAL, *RANDOM, (1 << 20) - 1])
def test_the_twin_of_blake3(length: int) -> None:
    data = official_input(length)
    (digest,) = blake3.digests(blake3.chains(data, 1024), 1024)
    found = digest.tobytes().hex()
    assert found == official_blake3(data).hexdigest()
    assert found == KNOWN.get(length, found)


@pytest.mark.parametrize("block", [1, 3, 16])
def test_the_twin_of_blake3_hashes_each_block_by_itself(block: int) -> None:
    data = np.random.default_rng(4).bytes(5 * block * 1024 + 700)
    size = block * 1024
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    found = blake3.digests(blake3.chains(data, block), block)
    assert [row.tobytes() for row in found] == [official_blake3(part).digest() for part in parts]


@pytest.mark.parametrize("kind", FORMS)
def test_matrices_are_what_the_gguf_package_reads(kind: str) -> None:
    """Bit for bit, subnormal scales too."""
    for rows, cols in itertools.product((1, 67), columns(kind)):
        matrix = Matrix.random(np.random.default_rng(rows), kind, rows, cols)
        data = np.frombuffer(matrix.data, np.uint8)
        wanted = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[kind])
        wanted = wanted.reshape(rows, cols).astype(np.float32)
        np.testing.assert_array_equal(matrix.values.view(np.uint32), wanted.view(np.uint32))


def test_the_twin_of_drafts() -> None:
    """By hand, so that kernel and twin cannot be wrong alike."""
    assert references.draft([4, 5, 6, 7, 4, 5, 6], 3, 4) == [7, 4, 5, 6]
    assert references.draft([1, 5, 2, 9, 5, 3, 1, 5], 3, 2) == [2, 9]  # two ids, not the latest one
    assert references.draft([5, 1, 5, 2, 5], 3, 2) == [2, 5]  # of equal ones the latest
    assert references.draft([1, 2, 3, 4], 3, 4) == []
    assert references.draft([1], 3, 4) == []
    assert references.draft([3, 8, 8], 3, 4) == [8, 8, 8, 8]
    assert references.draft([1, 2, 1, 2, 1], 3, 4) == [2, 1, 2, 1]


def test_the_twin_of_bandwidth_counts_every_word_once() -> None:
    for tiles in (1, 3, 2049):
        trial = find("bandwidth", f"{tiles} tiles").trial()
        total = trial.twin({})["sums"].values.sum(dtype=np.uint32)
        assert total == trial.arrays["data"].sum(dtype=np.uint32)


@pytest.mark.parametrize("workgroup_bytes", [1 << 14, 1 << 15, 48 << 10])
def test_tiles_fit_every_adapter(workgroup_bytes: int) -> None:
    for dim in range(4, 257, 4):
        tile = tile_of(dim, workgroup_bytes)
        assert tile.bytes <= workgroup_bytes
        assert tile.threads <= MOST_THREADS
        assert dim % tile.chunk == tile.keys % tile.values == 0


def test_errors_are_relative_and_the_worst_is_named() -> None:
    before = np.full((2, 3), 7.0, np.float32)
    expected = inside(before, np.s_[:, :2], np.array([[1.0, 4.0], [2.0, 8.0]]))
    found = compare(expected.values.astype(np.float32), expected)
    assert (found.max_error, found.rms_error, found.within) == (0.0, 0.0, True)
    wrong = expected.values.copy()
    wrong[1, 0] = 2.5
    found = compare(wrong, expected)
    assert (found.worst, found.got, found.exact, found.within) == ((1, 0), 2.5, 2.0, False)
    assert found.max_error == 0.5 / 8
    assert found.rms_error == pytest.approx(0.5 / 8 / np.sqrt(6))


def test_what_should_stay_and_has_not_is_as_wrong_as_can_be() -> None:
    expected = inside(np.full(3, 7.0, np.float32), np.s_[:2], np.array([1.0, 2.0]))
    for place, value in ((2, 7.001), (0, np.nan), (1, np.inf)):
        wrong = expected.values.copy()
        wrong[place] = value
        found = compare(wrong, expected)
        assert (found.max_error, found.worst, found.within) == (np.inf, (place,), False)
    assert compare(np.array([5]), Expected(np.array([5]))).within
    assert not compare(np.array([6]), Expected(np.array([5]))).within


GIVEN: dict[str, Any] = {
    "arrays": {
        "x": {"dtype": "f16", "shape": [2, 2], "data": [1, 2.5, "NaN", "-Infinity"]},
        "ids": {"dtype": "u32", "shape": [2], "data": base64.b64encode(bytes(8)).decode()},
        "out": {"dtype": "f32", "shape": [3]},
    },
    "constants": {"ROWS": 2},
    "params": {"eps": 0.5},
    "outputs": ["out"],
    "tokens": 4,
}


def test_given_arrays() -> None:
    arrays = arrays_of(GIVEN, 16)
    assert {name: values.dtype.name for name, values in arrays.items()} == {
        "x": "float16",
        "ids": "uint32",
        "out": "float32",
    }
    np.testing.assert_array_equal(arrays["x"], [[1, 2.5], [np.nan, -np.inf]])
    assert arrays["ids"].tolist() == [0, 0]
    assert arrays["out"].tolist() == [0, 0, 0]
    names = {name: name for name in arrays}
    assert launch_of("k", GIVEN) == Launch("k", {"ROWS": 2}, {"eps": 0.5}, names, 4)
    assert outputs_of(GIVEN) == ["out"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arrays": {"x": {"dtype": "f64", "shape": [1]}}}, "dtype must be one of f32, f16"),
        ({"arrays": {"x": 5}}, "array x: dtype"),
        ({"arrays": {"x": {"dtype": "f32", "shape": 3}}}, "shape must be a list"),
        ({"arrays": {"x": {"dtype": "f32", "shape": [10**9]}}}, "4000000000 bytes"),
        ({"arrays": {"x": {"dtype": "f32", "shape": [2], "data": [1]}}}, "array x: "),
        ({"arrays": {"x": {"dtype": "f32", "shape": [1], "data": ["a"]}}}, "array x: "),
        ({"arrays": {"x": {"dtype": "f32", "shape": [1], "data": "?"}}}, "not base64"),
        ({"arrays": []}, "arrays must be an object"),
        ({"constants": {"ROWS": "2"}}, "constants: 'ROWS' is '2'"),
        ({"params": {"eps": True}}, "params: 'eps' is True"),
        ({"outputs": ["y"]}, "names of arrays"),
        ({"outputs": [[]]}, "names of arrays"),
        ({"tokens": 0}, "tokens is 0"),
    ],
)
def test_what_is_given_wrong_is_told(changes: dict[str, Any], message: str) -> None:
    args = {**GIVEN, **changes}
    if isinstance(args["arrays"], dict):
        args["arrays"] = {**GIVEN["arrays"], **args["arrays"]}
    with pytest.raises(RequestError, match=message):
        launch_of("k", args), outputs_of(args), arrays_of(args, 1 << 20)


def test_lines_of_a_source_lead_back_to_their_files() -> None:
    for name in SOURCES.keys() - SHARED:
        shader = parse(name, SOURCES)
        for number, line in enumerate(shader.source.split("\n"), start=1):
            file, there = shader.place(number)
            written = SOURCES[file].split("\n")[there - 1]
            assert line in (written, "") or not line  # a directive's own line is left empty
            if number <= len(shader.directives):
                assert line == written


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(DeviceError, match="kernel a uses nothing, and there is no such file"):
        parse("a", {"a": "// uses: nothing\n"})
