"""Which tokens end an answer: those that a file names, and those that are known by their names.

Files name one end of several that their models write (Llama 3: <|eot_id|>, <|eom_id|> and
<|end_of_text|>). Hence every token of these names is an end, as in llama.cpp (src/llama-vocab.cpp,
special_eog_ids), and with its exceptions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

CLOSING_TAG = "</s>"  # an end of Llama's, and what closes struck out text in HTML
_ENDS = """
    <|eot_id|> <|eom_id|> <|im_end|> <|end|> <|return|> <|call|> <|calls|> <|flush|> <end_of_turn>
    <|endoftext|> <|end_of_text|> </s> <eos> <EOT> _<EOT> [EOT] [EOS] <end_of_utterance> <turn|>
    <|tool_response> <｜end▁of▁sentence｜> [e~[
"""
# What models that fill in code write when they have no more to say, by the key that a GGUF file has
# for its token: padding, another repository, another file.
_FILL_ENDS = {
    "fim_pad_token_id": "<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD]",
    "fim_rep_token_id": "<|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame>",
    "fim_sep_token_id": "<|file_sep|>",
}
FILL_KEYS = tuple(_FILL_ENDS)
# The other tokens of which turns and answers are built.
_STRUCTURE = """
    <|im_start|> <start_of_turn> <|start_header_id|> <|end_header_id|> <|turn> <|channel> <channel|>
    <|start|> <|channel|> <|message|> <|constrain|>
    <|fim_prefix|> <fim-prefix> <fim_prefix> <｜fim▁begin｜>
    <|fim_suffix|> <fim-suffix> <fim_suffix> <｜fim▁hole｜>
    <|fim_middle|> <fim-middle> <fim_middle> <｜fim▁end｜>
"""
NAMES = frozenset(" ".join([_ENDS, _STRUCTURE, *_FILL_ENDS.values()]).split())
CONTROLS = NAMES - {CLOSING_TAG}  # no text, whatever type a file gives them


def ends(
    ids: Mapping[str, int], given: Collection[int], fill_keys: Collection[str] = ()
) -> tuple[int, ...]:
    """All ids that end an answer: `given`, the first of all first, then those of known names.

    ids: tokens by their text, those of NAMES at least. fill_keys: those of FILL_KEYS whose token is
    among `given`, so that none is looked for by name.
    """
    names = set(_ENDS.split())
    for key, texts in _FILL_ENDS.items():
        if key not in fill_keys:
            names.update(texts.split())
    found = {ids[name] for name in names if name in ids} | set(given)
    here = {name for name in names if name in ids}
    if here & {"<|call|>", "<|calls|>"} and here & {"<|return|>", "<|flush|>"}:
        found.discard(ids.get("<|end|>", -1))  # ends a part of an answer: others end answers
    if here & {"<|tool_response>", "<eos>"} and ids.get(CLOSING_TAG) not in given:
        found.discard(ids.get(CLOSING_TAG, -1))  # Gemma's vocabulary has it for HTML
    return tuple(dict.fromkeys([*(i for i in given if i in found), *sorted(found)]))
