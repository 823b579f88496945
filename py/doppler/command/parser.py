"""The words of the command line: commands, their options, and what each is for."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, NoReturn

from doppler import __version__
from doppler.command import arguments
from doppler.command.arguments import MODELS, PORT, add_page_options, path

MODEL_HELP = "a model's folder, or the name of one in models/"
Run = Callable[..., None]


class Misused(Exception):
    """A command line that cannot be understood: what is wrong, and how it is used."""

    def __init__(self, message: str, usage: str) -> None:
        super().__init__(message)
        self.usage = usage


class Parser(argparse.ArgumentParser):
    """argparse's, but for errors: they are raised, and know the word that was meant."""

    def error(self, message: str) -> NoReturn:
        raise Misused(message + self._meant(message), self.format_usage())

    def _meant(self, message: str) -> str:
        choice = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if choice:
            return _suggested(choice[1], re.findall(r"[\w.-]+", choice[2]))
        unknown = re.search(r"unrecognized arguments: (--[\w-]+)", message)
        return _suggested(unknown[1], sorted(_options(self))) if unknown else ""


def _suggested(word: str, known: list[str]) -> str:
    close = get_close_matches(word, known, 1)
    return f"; did you mean {close[0]}?" if close else ""


def _options(parser: argparse.ArgumentParser) -> set[str]:
    """All options of a parser and of its commands."""
    found: set[str] = set()
    for action in parser._actions:
        found.update(word for word in action.option_strings if word.startswith("--"))
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                found |= _options(command)
    return found


def build(runs: Mapping[str, Run]) -> Parser:
    """All commands and their options; `runs` has what each command does, by its name."""
    top = Parser(prog="doppler", description="Language models in a browser page.")
    top.add_argument("--version", action="version", version=f"doppler {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        _add_serve,
        _add_seed,
        _add_pull,
        _add_convert,
        _add_recut,
        _add_verify,
        _add_generate,
        _add_bench,
        _add_quality,
        _add_synth,
        _add_adapter,
    ):
        add(commands, runs)
    return top


def _command(commands: Any, runs: Mapping[str, Run], name: str, about: str) -> Parser:
    command: Parser = commands.add_parser(name, help=about, description=about)
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.set_defaults(run=runs[name])
    return command


def _add_serve(commands: Any, runs: Mapping[str, Run]) -> None:

    command = _command(commands, runs, "serve", "Serve the page and the models of a folder.")
    command.add_argument(
        "--port", type=arguments.port_number, default=PORT, help=f"0: any free one ({PORT})"
    )
    command.add_argument(
        "--models", type=path, metavar="DIR", help="the folder of model folders (models)"
    )
    command.add_argument(
        "--host-name",
        type=arguments.host_name,
        action="append",
        default=[],
        metavar="NAME",
        help="answer to this name, too: that of a proxy or tunnel in front; may be repeated",
    )
    command.add_argument(
        "--allow",
        type=arguments.infohash,
        action="append",
        default=[],
        metavar="HASH",
        help="a torrent that the tracker carries besides its own models', or all; may be repeated",
    )
    command.add_argument(
        "--tracker",
        type=arguments.tracker_url,
        action="append",
        default=[],
        metavar="URL",
        help="another tracker that the page may use, ws:// or wss://; may be repeated",
    )
    command.add_argument("--open", action="store_true", help="open the page in the browser")


def _add_seed(commands: Any, runs: Mapping[str, Run]) -> None:
    command = _command(commands, runs, "seed", "Share a model with peers until interrupted.")
    command.add_argument("model", metavar="DIR", help=MODEL_HELP)
    command.add_argument(
        "--tracker",
        type=arguments.tracker_url,
        default=f"ws://127.0.0.1:{PORT}/tracker",
        metavar="URL",
        help=f"where peers meet, ws:// or wss:// (ws://127.0.0.1:{PORT}/tracker)",
    )
    command.add_argument(
        "--page",
        type=arguments.page_address,
        metavar="URL",
        help="the page that the printed link opens (that of a doppler serve at the tracker)",
    )
    command.add_argument(
        "--listen",
        type=arguments.listen_address,
        default="127.0.0.1:0",
        metavar="HOST:PORT",
        help="for peers outside browsers; port 0: any free one (127.0.0.1:0)",
    )
    command.add_argument(
        "--upload-rate",
        type=arguments.byte_count,
        default=0,
        metavar="SIZE",
        help="a second at most, such as 2MB; 0: no limit (0)",
    )


def _add_pull(commands: Any, runs: Mapping[str, Run]) -> None:
    command = _command(commands, runs, "pull", "Fetch a model of the catalogue and convert it.")
    command.add_argument("name", metavar="NAME", nargs="+", help="as in web/catalogue.json")
    command.add_argument(
        "--models", type=path, default=MODELS, metavar="DIR", help="where to keep it (models)"
    )


def _add_convert(commands: Any, runs: Mapping[str, Run]) -> None:
    from doppler.quantization.block_types import QUANTS

    about = "Convert a .gguf, whole or any of its parts, or a folder with a model."
    command = _command(commands, runs, "convert", about)
    command.add_argument("source", type=path, metavar="FILE_OR_DIR", help="the model to convert")
    command.add_argument(
        "-o", "--output", type=path, required=True, metavar="DIR", help="the folder to write"
    )
    command.add_argument(
        "--quant", choices=QUANTS, default="none", help="of a safetensors folder's matrices (none)"
    )
    command.add_argument("--text", type=path, metavar="FILE", help="to measure the quality on")
    command.add_argument(
        "--quality-tokens", type=arguments.count, metavar="N", help="0: do not measure (256)"
    )
    command.add_argument(
        "--shard-size",
        type=arguments.byte_count,
        metavar="N",
        help="such as 4M or 4MiB, not 4MB: a multiple of 1M (16M)",
    )


def _add_recut(commands: Any, runs: Mapping[str, Run]) -> None:
    about = "Write a converted model in shards of another size: it stays the same model."
    command = _command(commands, runs, "recut", about)
    command.add_argument("model", metavar="DIR", help=MODEL_HELP)
    command.add_argument(
        "--shard-size",
        type=arguments.byte_count,
        required=True,
        metavar="SIZE",
        help="such as 4M or 4MiB, not 4MB: a multiple of 1M; memory holds one shard",
    )
    command.add_argument(
        "-o", "--output", type=path, required=True, metavar="DIR", help="the folder to write"
    )


def _add_verify(commands: Any, runs: Mapping[str, Run]) -> None:
    command = _command(commands, runs, "verify", "Check every byte of a converted model.")
    command.add_argument("model", metavar="DIR", help=MODEL_HELP)


def _add_generate(commands: Any, runs: Mapping[str, Run]) -> None:
    from doppler.engine.speculate import MODES

    about = "Generate text with the real page in a headless browser."
    command = _command(commands, runs, "generate", about)
    command.add_argument("model", metavar="DIR", help=MODEL_HELP)
    prompt = command.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", metavar="TEXT", help="what to go on from")
    prompt.add_argument(
        "--prompt-ids", type=arguments.token_ids, metavar="2,818,…", help="the same as token ids"
    )
    command.add_argument("--max-tokens", type=int, default=128, metavar="N", help="at most (128)")
    command.add_argument("--chat", action="store_true", help="the prompt is a user's message")
    command.add_argument(
        "--tools", type=path, metavar="FILE", help="JSON: tools that a chat's model may call"
    )
    command.add_argument("--logits", type=path, metavar="OUT.npy", help="of the prompt's tokens")
    command.add_argument(
        "--trace", type=path, metavar="OUT.jsonl", help="of the experts that each token uses"
    )
    command.add_argument(
        "--batch", type=arguments.positive, metavar="N", help="tokens prefilled at once, at most"
    )
    command.add_argument("--greedy", action="store_true", help="always the likeliest token")
    command.add_argument("--ignore-eos", action="store_true", help="go on after end tokens")
    command.add_argument(
        "--speculate", choices=MODES, default="auto", help="drafts from what was said (auto)"
    )
    sampling = command.add_argument_group("sampling", "without them as the model's files say")
    for name, kind, metavar, about in (
        ("temperature", float, "X", "what logits are divided by (1)"),
        ("top-k", int, "N", "choose among the N likeliest; 0: all (0)"),
        ("top-p", float, "X", "among the fewest that have this probability together (1)"),
        ("min-p", float, "X", "among those of this share of the best one's probability (0)"),
        ("repetition-penalty", float, "X", "divides logits of tokens already seen (1)"),
        ("seed", int, "N", "of the random choice (0)"),
    ):
        sampling.add_argument(f"--{name}", type=kind, metavar=metavar, help=about)
    add_page_options(command)


def _add_bench(commands: Any, runs: Mapping[str, Run]) -> None:
    command = _command(commands, runs, "bench", "Measure a model in the page: speed and memory.")
    command.add_argument("model", metavar="DIR|SPEC", help=f"{MODEL_HELP}, or a name for synth")
    lengths: dict[str, Any] = {"type": int, "nargs": "+", "metavar": "N"}
    command.add_argument(
        "--prompt", default=[128, 512, 2048], help="tokens to prefill (128 512 2048)", **lengths
    )
    command.add_argument(
        "--contexts",
        default=[128, 2048, 8192],
        help="tokens after which to decode (128 2048 8192)",
        **lengths,
    )
    command.add_argument("--tokens", type=int, default=200, metavar="N", help="to decode (200)")
    command.add_argument("--runs", type=int, default=5, metavar="N", help="of each figure (5)")
    command.add_argument("--profile", action="store_true", help="time every kernel, too")
    command.add_argument("--plot", type=path, metavar="FILE.svg", help="draw the figures")
    add_page_options(command)


def _add_quality(commands: Any, runs: Mapping[str, Run]) -> None:
    about = "Measure what keys and values in fewer bits cost a model: KL divergence and memory."
    command = _command(commands, runs, "quality", about)
    command.add_argument("model", metavar="DIR", help=MODEL_HELP)
    command.add_argument("--text", type=path, metavar="FILE", help="to measure on (one of ours)")
    command.add_argument(
        "--tokens", type=arguments.positive, default=256, metavar="N", help="of it, at most (256)"
    )
    add_page_options(command)


def _add_synth(commands: Any, runs: Mapping[str, Run]) -> None:
    about = "Write a model of a true shape with random weights."
    command = _command(commands, runs, "synth", about)
    command.add_argument("shape", metavar="NAME", help="gemma-3-1b, gemma-3-4b, llama-3.2-1b, ...")
    command.add_argument(
        "-o", "--output", type=path, required=True, metavar="DIR", help="the folder to write"
    )
    command.add_argument("--layers", type=arguments.positive, metavar="N", help="the first N (all)")


def _add_adapter(commands: Any, runs: Mapping[str, Run]) -> None:
    about = "Make, sign, verify and show adapters (LoRA) of a model."
    top: Parser = commands.add_parser("adapter", help=about, description=about)
    actions = top.add_subparsers(required=True, metavar="ACTION", help="what to do")
    own = dict.fromkeys(("make", "key", "verify", "show"), runs["adapter"])
    make = _command(actions, own, "make", "Write one from a folder of PEFT's or a .gguf adapter.")
    make.add_argument("source", type=path, metavar="PEFT_DIR|FILE.gguf", help="what to read")
    make.add_argument("--base", required=True, metavar="DIR", help=f"its model: {MODEL_HELP}")
    _add_output(make, "DIR", "the folder to write")
    make.add_argument("--key", type=path, metavar="FILE", help="to sign it with (not signed)")
    make.add_argument("--name", metavar="N", help="what versions of it have in common (of -o)")
    make.add_argument(
        "--version", type=arguments.positive, default=1, metavar="N", help="counts up (1)"
    )
    make.add_argument("--note", default="", metavar="TEXT", help="for whoever decides about it")
    make.add_argument("--license", metavar="L", help="under which it may be used")
    key = _command(actions, own, "key", "Make a key to sign with; none is ever written over.")
    _add_output(key, "FILE", "the file to write, for your eyes alone")
    verify = _command(actions, own, "verify", "Check every byte, and who signed it.")
    verify.add_argument("--base", metavar="DIR", help=f"it must be of this model: {MODEL_HELP}")
    verify.add_argument(
        "--key-hex",
        type=arguments.author_key,
        metavar="AUTHOR",
        help="it must be signed by this public key",
    )
    show = _command(actions, own, "show", "Tell what it changes, how much, and who signed it.")
    for command in (verify, show):
        command.add_argument("adapter", type=path, metavar="DIR", help="an adapter's folder")
    for name, command in (("make", make), ("key", key), ("verify", verify), ("show", show)):
        command.set_defaults(action=name)


def _add_output(command: Parser, metavar: str, about: str) -> None:
    command.add_argument("-o", "--output", type=path, required=True, metavar=metavar, help=about)
