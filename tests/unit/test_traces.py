"""Traces of experts: written, read and refused; the synthetic router and how close it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import replay_traces
from doppler.command.shapes import SHAPES
from doppler.errors import DopplerError, FormatError, RequestError, SourceError, UnsupportedError
from doppler.residency.locality import any_repeated, repeated_within, share_of_busiest
from doppler.residency.synthetic import PROFILES, Profile, foretell, joined, synthesize
from doppler.residency.trace import Trace, header_line, parse, read, token_line, write

HEAD = '{"trace": "experts", "version": 1, "model": "m", "layers": 2, "experts": 4, "used": 2}'
LINE = '{"used": [[0, 1], [3, 2]]}'


def test_a_trace_comes_back_as_it_was_written(tmp_path: Path) -> None:
    plain = synthesize("m", 3, 16, 2, profile=PROFILES["local"], tokens=20)
    mixed = Trace("m", 3, 16, 2, tuple((a, (), c) for a, _, c in plain.tokens))
    for trace in (plain, mixed, foretell(plain, 0.5, 0.5), replace(mixed, units=(7, 0, 9))):
        path = tmp_path / "trace.jsonl"
        write(trace, path)
        assert read(path) == trace


def test_whoever_runs_a_model_writes_a_line_a_token() -> None:
    trace = parse("\n".join([HEAD, LINE, "", token_line([[1, 0], [2, 3]]), ""]), "t")
    assert trace.tokens == (((0, 1), (3, 2)), ((1, 0), (2, 3)))
    assert header_line(trace) == HEAD


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "line 1: this is no trace"),
        (['{"trace": "weights"}'], "line 1: this is no trace"),
        (["[1]"], "line 1: an object is wanted, not"),
        (["{"], "line 1: not JSON"),
        (["[" * 100_000], "line 1: not JSON"),
        ([HEAD.replace('"used": 2', '"used": 5')], "line 1: used is 5, not a number from 1 to 4"),
        ([HEAD.replace('"layers": 2', '"layers": true')], "line 1: layers is True"),
        ([HEAD.replace('"experts": 4', '"experts": 1e9')], "line 1: experts is 1000000000.0"),
        ([HEAD.replace('"layers": 2', '"layers": 5000')], "line 1: layers is 5000"),
        ([HEAD], "the trace has no tokens"),
        ([HEAD[:-1] + ', "units": [1]}', LINE], "line 1: units is [1], not 2 numbers of bytes"),
        ([HEAD, "{}"], "line 2: used is not a list of 2 layers: None"),
        ([HEAD, '{"used": [[0, 1]]}'], "line 2: used is not a list of 2 layers"),
        ([HEAD, '{"used": [[0, 1], 7]}'], "line 2: used, layer 1: different experts from 0 to 3"),
        ([HEAD, '{"used": [[0, 4], [0, 1]]}'], "line 2: used, layer 0: different experts"),
        ([HEAD, '{"used": [[0, true], [0, 1]]}'], "line 2: used, layer 0: different experts"),
        ([HEAD, '{"used": [[1, 1], [0, 1]]}'], "line 2: used, layer 0: different experts"),
        ([HEAD, '{"used": [[1], [0, 1]]}'], "line 2, layer 0: 1 experts used; a layer has 2"),
        ([HEAD, LINE, '{"used": [[], [0, 1]]}'], "line 3, layer 0: 0 experts used"),
        ([HEAD, LINE[:-1] + ', "predicted": [[9], []]}'], "line 2: predicted, layer 0"),
        ([HEAD, LINE, LINE[:-1] + ', "predicted": [[], []]}'], "line 3: either all tokens"),
        ([HEAD, LINE[:-1] + ', "predicted": [[], []]}', LINE], "line 3: either all tokens"),
    ],
)
def test_what_is_no_trace_is_refused(lines: list[str], message: str) -> None:
    with pytest.raises(FormatError) as error:
        parse("\n".join(lines), "t.jsonl")
    assert str(error.value).startswith("t.jsonl")
    assert message in str(error.value)


def test_other_versions_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="version 2 of traces is not known"):
        parse(HEAD.replace('"version": 1', '"version": 2'), "t")
    with pytest.raises(SourceError, match="cannot be read"):
        read(tmp_path / "absent")
    with pytest.raises(SourceError, match="cannot be written"):
        write(parse(f"{HEAD}\n{LINE}", "t"), tmp_path / "absent" / "t")
    (tmp_path / "bytes").write_bytes(b"{\xff}")
    with pytest.raises(FormatError, match="byte 1 is not"):
        read(tmp_path / "bytes")


def test_every_refusal_is_one_for_a_person() -> None:
    long = "[" + "1," * 10_000 + "1]"
    with pytest.raises(DopplerError) as error:
        parse(f'{HEAD}\n{{"used": {long}}}', "t")
    assert len(str(error.value)) < 200


def test_likeness_and_skew_are_what_was_set() -> None:
    """Of 64 experts alike, 4 are used: the token before had one of them by chance in 1 of 16."""
    for likeness in (0.0, 0.5, 0.9):
        trace = synthesize("m", 1, 64, 4, profile=Profile(0, (likeness,)), tokens=2000)
        uses = [token[0] for token in trace.tokens]
        chance = (1 - likeness) * 4 / 64
        assert repeated_within(uses, 1) == pytest.approx(likeness + chance, abs=0.02)
        assert share_of_busiest(uses, 64) == 1
        assert share_of_busiest(uses, 16) < 0.4
    steep = synthesize("m", 1, 64, 4, profile=Profile(1.5, (0,)), tokens=500)
    assert share_of_busiest([token[0] for token in steep.tokens], 16) > 0.7


def test_likeness_goes_from_layer_to_layer() -> None:
    profile = Profile(0, (0.0, 0.8, 0.4))
    found = [profile.likeness_at(layer, 9) for layer in range(9)]
    assert found == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 0.7, 0.6, 0.5, 0.4])
    assert Profile(0, (0.3,)).likeness_at(5, 9) == 0.3
    assert profile.likeness_at(0, 1) == 0


def test_layers_have_favourites_of_their_own_and_seeds_make_traces() -> None:
    def trace(seed: int) -> Trace:
        return synthesize("m", 2, 32, 2, profile=Profile(2, (0,)), tokens=200, seed=seed)

    assert trace(1) == trace(1) != trace(2)
    first, second = ([token[layer] for token in trace(1).tokens] for layer in (0, 1))
    both = [(*a, *b) for a, b in zip(first, second, strict=True)]
    assert share_of_busiest(both, 2) < 0.7 * share_of_busiest(first, 2)
    assert len(joined([trace(1), trace(2)]).tokens) == 400
    assert any_repeated([(0, 1), (1, 2), (3, 4)]) == 0.5


def test_predictions_find_what_they_are_set_to_find() -> None:
    trace = foretell(
        synthesize("m", 4, 64, 8, profile=PROFILES["flat"], tokens=200), recall=0.8, precision=0.7
    )
    named = right = used = 0
    for chosen, told in zip(trace.tokens, trace.predicted, strict=True):
        for layer in range(4):
            named += len(told[layer])
            used += len(chosen[layer])
            right += len(set(told[layer]) & set(chosen[layer]))
    assert right / used == pytest.approx(0.8, abs=0.02)
    assert right / named == pytest.approx(0.7, abs=0.02)


def test_routers_that_cannot_be_are_refused() -> None:
    for wrong in (Profile, lambda *a: Profile(*a, head=-1)):
        with pytest.raises(RequestError, match="likeness is 0 or more and below 1"):
            wrong(0.5, (0.5, 1.0) if wrong is Profile else (0.5,))
    with pytest.raises(RequestError, match="cannot use 9 of 8"):
        synthesize("m", 1, 8, 9, profile=PROFILES["flat"], tokens=1)
    plain = synthesize("m", 1, 8, 2, profile=PROFILES["flat"], tokens=1)
    with pytest.raises(RequestError, match="are not shares"):
        foretell(plain, 1.2, 0.5)


def test_the_synthetic_router_is_close_to_what_was_published() -> None:
    """Within five points, but for two figures that one profile cannot have with the others."""
    apart = {"uses of the 64 busiest of 512": 0.14, "LRU, 16 of 64 slots, cold": 0.1}
    for _, figure, published, ours in replay_traces.fit():
        assert abs(ours - published) < apart.get(figure, 0.05), figure


def test_shapes_have_the_bytes_of_their_files() -> None:
    mixture, beside = replay_traces.mixture_of("gpt-oss-20b")
    # MXFP4: 17 bytes for 32 weights; gate, up and down, and their biases in float32.
    assert set(mixture.units) == {3 * (2880 * 2880 * 17 // 32 + 2880 * 4)}
    assert (mixture.layers, mixture.experts, mixture.used) == (24, 32, 4)
    assert beside < 2.5e9
    mixture, _ = replay_traces.mixture_of("lfm2-8b-a1b")
    assert [unit > 0 for unit in mixture.units] == [
        not it.dense for it in SHAPES["lfm2-8b-a1b"].layers
    ]
    with pytest.raises(RequestError, match="has no experts"):
        replay_traces.mixture_of("gemma-3-270m")


def test_a_trace_file_is_replayed_and_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, plot = tmp_path / "t.jsonl", tmp_path / "t.svg"
    write(synthesize("mixtral-8x7b", 32, 8, 2, profile=PROFILES["mixtral"], tokens=80), path)
    monkeypatch.setattr("sys.argv", ["replay_traces.py", str(path), "--plot", str(plot)])
    replay_traces.main()
    printed = capsys.readouterr().out
    assert "**mixtral-8x7b, t.jsonl, 12 GB: 3 or 4 of 8 slots a layer**" in printed
    assert printed.count("| lfu |") == 2
    assert plot.read_text().count("<rect") == 1 + 2 * 5
    other = synthesize("mine", 3, 16, 2, profile=PROFILES["local"], tokens=20)
    monkeypatch.setattr("sys.argv", ["replay_traces.py", str(path)])
    write(other, path)
    with pytest.raises(RequestError, match=r"'mine' is none of gemma-4-26b-a4b, .* how many bytes"):
        replay_traces.main()
    write(replace(other, units=(9, 9, 9)), path)
    replay_traces.main()
    printed = capsys.readouterr().out
    assert "**mine, t.jsonl, a half of the experts: 8 of 16 slots a layer**" in printed
    assert "**mine, t.jsonl, a quarter of the experts: 4 of 16 slots a layer**" in printed
