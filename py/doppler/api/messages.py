"""What the page and Doppler say to each other, as JSON: arguments, results and events.

The methods themselves are those of Api in api.py, typed with what stands here. From both,
scripts/messages.py writes web/runtime/messages.d.ts; a text below a field is the field's comment.
A dataclass stands for an object of its fields. This module evaluates its annotations, so that
TypedDict sees which keys are required: what is used is defined before.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Never, NotRequired, TypedDict, TypeVar

from doppler.engine.speculate import Speculate
from doppler.engine.stopping import FinishReason
from doppler.plan.cache import CacheType
from doppler.quantization.block_types import Quant
from doppler.sampling import ModelSampling, Sampling
from doppler.text.parts import Part
from doppler.workbench.report import GivenArray

E = TypeVar("E")
Emit = Callable[[E], None]  # tells the page an event

Bits = Literal["f16", "f32"]
Memory = dict[str, int]
"""GPU bytes by kind, and their total."""
Empty = dict[str, Never]


# Events.

ProgressStage = Literal["waiting", "download", "import", "verify", "compile", "tokenizer"]
"""waiting: another tab, or another call, is storing the same model; when that has ended, what it
stored is used, or the work is done here. download and import count bytes stored; verify bytes
uploaded; compile kernels."""


class ProgressEvent(TypedDict):
    """How far long work is."""

    type: Literal["progress"]
    stage: ProgressStage
    done: int
    total: int
    rate: float
    """Units of `done` a second."""


class PrefillEvent(TypedDict):
    """How much of the prompt is read."""

    type: Literal["prefill"]
    done: int
    """Tokens of the prompt."""
    total: int


class TokenEvent(TypedDict):
    """A token was generated, or text of earlier ones has become certain."""

    type: Literal["token"]
    id: int | None
    """null: text that was held back, at the end."""
    text: str
    n: int
    """Tokens generated so far."""
    part: Part
    """What a model thinks before it answers, the answer, or a call of a tool as it is written;
    complete has answers only."""


class CalledFunction(TypedDict):
    """A tool, and what it is called with."""

    name: str
    arguments: dict[str, Any]


class MessageToolCall(TypedDict):
    """A call that a model wrote; a message of the assistant may have it in its tool_calls."""

    id: str
    """9 letters and digits, for the tool_call_id of the message with the tool's result."""
    type: Literal["function"]
    function: CalledFunction
    raw: str
    """What the model wrote, with its markers; of several between two markers the first has it."""


class ToolCallEvent(TypedDict):
    """A call has been written whole and could be read. Its text came before, in parts tool_call;
    where these end without this event, it comes again as text.
    """

    type: Literal["tool_call"]
    index: int
    """Among the calls of the answer, from 0."""
    call: MessageToolCall


AnswerEvent = PrefillEvent | TokenEvent | ToolCallEvent


class UnloadedEvent(TypedDict):
    """The loaded model left the GPU: by unload, delete, load, or with a device that was lost."""

    type: Literal["unloaded"]


# Arguments.


class ModelId(TypedDict):
    """A stored model."""

    id: str


class DownloadArgs(TypedDict):
    """What to download."""

    url: str
    """Of a manifest.json, relative to the page or absolute."""
    id: NotRequired[str]
    """Of what is to go on: the download fails where another model is there now."""
    storage_budget: NotRequired[int]
    """Bytes of weights that may be stored. Of a larger model none are stored yet: they come when it
    is loaded and run, each time that they are not there."""
    shard_bytes: NotRequired[int]
    """Of the shards that it is to be stored in, a multiple of its block size: another cut of the
    same model. Left out, the cut is that in which it is stored already, or comes. What lies in
    shards stays as it is: another cut is refused then."""


class FromPeersArgs(ModelId):
    """Which model is to come from peers: one that the page's transport has joined."""

    storage_budget: NotRequired[int]
    """As `download` takes it."""
    shard_bytes: NotRequired[int]
    """As `download` takes it."""


class AdapterOverride(TypedDict, total=False):
    """What to take the adapter for, for tests and debugging: it decides which kernels run."""

    is_cpu: bool
    subgroup_size: int


class RoomArgs(TypedDict, total=False):
    """How a model is loaded, or would be."""

    context: int
    """Tokens; the model's own maximum or less."""
    batch: int
    """Tokens a prefill batch."""
    kv: CacheType
    """What keys and values are kept as; f16 unless the adapter is a CPU. q8: 8 bits and a scale for
    every 32 numbers."""
    precision: Bits
    """What weights and activations are multiplied as; f16 where a GPU has it. Sums are f32."""
    ple: Literal["gpu", "host", "auto"]
    """Where per-layer embeddings are: on the GPU, or in storage, of which a token's row is brought.
    auto is the GPU, unless it has no room."""
    gpu_budget: int
    """Bytes of GPU memory that are never exceeded: what does not fit is brought when it is used."""
    host_budget: int
    """Bytes of the host's memory for experts, layers, keys and values that are not on the GPU."""
    adapter: AdapterOverride


class LoadArgs(ModelId, RoomArgs):
    """Which stored model to load, and how."""

    limits: NotRequired[dict[str, int]]
    """Smaller device limits, for tests and debugging."""
    storage_budget: NotRequired[int]
    """Bytes of weights that may be stored from now on: of a larger model the blocks that were used
    last. What is stored already stays until something has to come. All of it, left out."""


class InspectArgs(RoomArgs):
    """Which model is meant (its id, its address, or files), and how it would be loaded.

    `context` may be more than the model's: then that is meant.
    """

    id: NotRequired[str]
    """Of a stored model."""
    url: NotRequired[str]
    """As import_url takes it."""
    folder: NotRequired[str]
    """As import_file takes it."""


class Naming(TypedDict, total=False):
    """How a model is stored."""

    name: str
    """What to call the model; it is called like the files else."""
    quant: Quant
    """What matrices of floats become; of a safetensors checkpoint only."""


class ImportUrlArgs(Naming):
    """A model of files at an address."""

    url: str
    """A .gguf or a part of a split one, a checkpoint's folder (config.json, .safetensors, …) or a
    file in it, or a model hub's repository: its page's address, or ORG/NAME alone. The server of a
    .gguf or .safetensors must answer range requests."""


class ImportFileArgs(Naming):
    """With `files`: a .gguf, all parts of a split one in any order, or those of a checkpoint."""

    folder: NotRequired[str]
    """The name of the folder of which they are all the files, which may hold one model."""


class Needs(TypedDict):
    """What decides how fast a model runs that is not all on the GPU, as `foresee` takes it back."""

    reads: int
    """Bytes that the GPU reads for a token."""
    dispatches: int
    """Kernels that it runs for one."""
    table: int
    """Bytes of embeddings that layers have of their own: they may stay in storage."""
    experts: int
    """In each layer that has some; 0 where none can be brought."""
    used: int
    """Of them, by a token."""
    units: list[int]
    """Bytes of an expert by layer, 0 in those that have none."""


class ForeseeArgs(TypedDict):
    """A model, as `inspect` tells of it, and budgets."""

    needs: Needs
    least: int
    """Bytes, as a `Fit` has them; `whole` too."""
    whole: int
    gpu_budget: int
    host_budget: NotRequired[int]
    """As a load takes it; left out, what that takes by itself."""
    gb_s: NotRequired[float]
    """What `bandwidth` measured of the GPU."""


class BudgetArgs(TypedDict, total=False):
    """Budgets that the loaded model keeps to from now on, in bytes: null is what a load takes by
    itself, and one that is left out stays as it is.
    """

    gpu_budget: int | None
    host_budget: int | None


class BudgetsSet(TypedDict):
    """What became of them."""

    load: bool
    """Whether the model has to be loaded again with them, since more or less of it would be on the
    GPU. Where a mixture has some of its experts there, they come and go at once."""


class ContentPart(TypedDict):
    """A text of several."""

    type: Literal["text"]
    text: str


class ChatMessage(TypedDict):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None
    """null where tool calls stand in its place; of several parts, the texts are joined by lines."""
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[dict[str, Any]]]
    """As answers have them, without `raw` too; arguments may also be JSON text."""
    tool_call_id: NotRequired[str]
    """Of the call that a tool's message is the result of."""
    name: NotRequired[str]


class ToolFunction(TypedDict):
    """What a tool is to a model."""

    name: str
    """Letters, digits and _ . : / -"""
    description: NotRequired[str]
    parameters: NotRequired[dict[str, Any]]
    """A JSON schema of an object."""
    response: NotRequired[dict[str, Any]]
    """A JSON schema of what it gives, for templates that tell it."""
    strict: NotRequired[bool]
    """Given to the template, and no promise."""


class Tool(TypedDict):
    """A tool that a model may call, as OpenAI's API has them."""

    type: Literal["function"]
    function: ToolFunction


class TemplateArgs(TypedDict, total=False):
    """What a chat template is given beside the messages."""

    tools: list[Tool]
    """Refused where the template would leave them out."""
    documents: list[dict[str, Any]]
    template_options: dict[str, Any]
    """Values of the template's own: enable_thinking, reasoning_effort, …"""


class Prompt(TemplateArgs, total=False):
    """What is to be read: a text, token ids, or messages as the chat template writes them."""

    prompt: str
    prompt_ids: list[int]
    messages: list[ChatMessage]


class GenerateArgs(TypedDict, total=False):
    """How an answer is written."""

    sampling: Sampling
    """What it leaves out is the model's own, or else as it stands there."""
    max_tokens: int
    stop: list[str]
    """Texts that end the answer, where they come in it and not in the reasoning."""
    speculate: Speculate
    """Drafts of what comes next, taken from what was said before and verified a few at a time:
    where that is faster (auto, the default), always, or never. The tokens are the same, but that a
    batch may add up a logit in another order, which decides where two tokens are equal to six
    digits."""
    ignore_eos: bool
    """Go on past end tokens, to compare with references that do."""
    written: list[int]
    """Ids of this very answer, which was cut off after them: it goes on as it would have then,
    where prompt and sampling are the same. Events tell of what is new, the result of all."""
    conversation: str
    """A name of letters, digits and -. Keys and values are kept in storage under it when the answer
    has ended, and used by later requests of that name whose prompts begin alike."""


class ChatArgs(GenerateArgs, TemplateArgs):
    """A conversation to answer."""

    messages: list[ChatMessage]
    """The oldest first."""


class CompleteArgs(GenerateArgs, Prompt):
    """A prompt to go on with."""


class LogitsArgs(Prompt):
    """A prompt to read."""

    batch: NotRequired[int]
    """Tokens a prefill batch."""


class ConversationName(TypedDict):
    """A conversation, by the name that requests gave."""

    conversation: str


class CancelArgs(TypedDict, total=False):
    """What is to end; all of it where nothing is said."""

    what: Literal["answer", "transfers"]


class PlanArgs(TypedDict, total=False):
    """The dispatches of a token after `tokens` of context, or of a prefill batch."""

    tokens: int
    batch: int


class EditedKernel(TypedDict):
    """A kernel, and a text of its own."""

    kernel: str
    source: NotRequired[str]
    """WGSL, whose `// uses:` lines count as in the shipped files."""
    file: NotRequired[str]
    """The file that `source` is the text of, if not the kernel's: one that it uses."""


class ReplaceKernelArgs(EditedKernel):
    """What is to be put in the place of a kernel's text: the shipped one, without `source`."""


class RunKernelArgs(EditedKernel):
    """What a kernel is to be run on: a case of it, or arrays."""

    case: NotRequired[str]
    """The name of a case, which has everything else."""
    constants: NotRequired[dict[str, float]]
    """A value of each override."""
    arrays: NotRequired[dict[str, GivenArray]]
    """What each binding holds, by its name, also those that are only written."""
    params: NotRequired[dict[str, float]]
    """A value of each field of Params."""
    outputs: NotRequired[list[str]]
    """The arrays that are told after the run."""
    tokens: NotRequired[int]
    """For how many tokens workgroups are started; 1 by default."""


# Results.


class DeviceReport(TypedDict):
    """The GPU, or why there is none."""

    ok: bool
    problem: str | None
    """What is missing and what to do; null when ok."""
    adapter: dict[str, str]
    """vendor, architecture and description, as far as the browser tells."""
    features: list[str]
    limits: dict[str, int]


class FileProblem(TypedDict):
    """A file that is not what it should be."""

    file: str
    problem: str


class FilesTaken(ModelId):
    """What became of files that were given to a model."""

    complete: bool
    """Whether all of it is stored now."""
    lacking: int
    """Bytes of its weights that are not."""
    problems: list[FileProblem]


class StorageUse(TypedDict):
    """What the browser says of its storage for this site, in bytes."""

    quota: int
    """What the browser tells, not a promise."""
    used: int
    """Our own count of the models."""
    persisted: bool
    """Whether the browser promised not to evict it."""


class Experts(TypedDict):
    """Of each layer: how many there are, and how many a token uses."""

    count: int
    used: int


class Facts(TypedDict):
    """What is in a model. Bytes are of its weights."""

    name: str
    title: str
    architecture: str
    quantization: str
    """The block type that most bytes have."""
    types: dict[str, int]
    """The bytes of each block type, the most first."""
    parameters: int
    bytes: int
    layers: int
    experts: Experts | None
    vocab: int
    context: int
    """Tokens, at most."""
    chat: bool
    """Whether it has a chat template; others continue text."""
    chat_problem: str | None
    """Why its chat template cannot be used; `models` does not look, `inspect` and `load` do."""
    tokenizer: bool
    """Without one the model takes and gives token ids only."""
    sampling: ModelSampling
    """Which holds for a setting that a request leaves out."""
    license: str | None


class StoredModel(Facts):
    """A model of which all is stored, or the beginning."""

    id: str
    stored_bytes: int
    """Of its files, so far."""
    complete: bool
    url: str | None
    """Address of its manifest.json; null where it was imported."""
    problem: None
    note: str | None
    """What else is wrong with it, though it can be used."""


class DamagedModel(TypedDict):
    """A stored model that cannot be used, since its manifest is damaged."""

    id: str
    name: str
    title: str
    stored_bytes: int
    complete: Literal[False]
    url: str | None
    problem: str
    """Why, and what to do."""
    note: None


class ModelProblem(TypedDict):
    """Why a model cannot be used: an error's name and message."""

    name: str
    message: str


class Fit(TypedDict):
    """What a load would hold at a context.

    How much memory a GPU has, no browser tells: its limits of a buffer and of a binding are known.
    """

    context: int
    memory: Memory | None
    """Exactly what `load` would report, but for transfers; null where it would be refused."""
    problem: str | None
    """Why it would be refused."""
    least: int | None
    """The least GPU budget that it runs in; null where that is not known."""
    whole: int | None
    """The least GPU budget in which all of it is there."""


class StorageNeed(TypedDict):
    """Bytes that storing a model takes beyond what is stored, and how many of these are free."""

    needed: int
    free: int


class Choice(Facts):
    """A model as it can be had."""

    quant: Quant
    warnings: list[str]
    """What it lacks, or was guessed of its files, in a sentence each; none of stored models."""
    wanted_context: int
    """Tokens: what was asked for, or what a load chooses by itself."""
    fits: list[Fit]
    """At several lengths, rising; empty where there is no GPU."""
    needs: Needs | None
    """For `foresee`; null where there is no GPU, or it does not take the model."""
    storage: StorageNeed


Way = Literal["whole", "table", "experts", "layers", "none"]
"""All of a model on the GPU; all but embeddings that layers have of their own; with some of its
experts there, and the others brought; with layers, or keys and values, brought for every token; or
not at all."""


class Foresight(TypedDict):
    """How a model would run within budgets, by the model of cost of docs/paging.md."""

    way: Way
    resident: float
    """The share of experts, or of what would be whole, that is on the GPU."""
    hit_rate: float | None
    """Of the uses of an expert, those that would find it there."""
    brought: float
    """Bytes a token."""
    tok_s: float | None
    """null where that is not known: without `gb_s`, or for the way `table`."""


class GpuLimits(TypedDict):
    """What decides whether a model's buffers fit."""

    problem: str | None
    """Why there is no GPU."""
    limits: dict[str, int]


@dataclass(frozen=True)
class Offer:
    """A model of a hub's repository, for inspect and import_url by its own address."""

    title: str
    url: str
    bytes: int
    parts: int
    """Files of a GGUF model; 0 for a checkpoint of safetensors."""


class Inspection(TypedDict):
    """What a model is and what it takes."""

    problem: ModelProblem | None
    """There are no choices then."""
    choices: list[Choice]
    """One for each quantisation, its own first."""
    gpu: GpuLimits | None
    """null with a problem."""
    models: list[Offer]
    """What the repository at an address holds, where that are several models: then choose one."""


class Stage(TypedDict):
    """A stage of a start, in milliseconds since 1970."""

    stage: str
    start: float
    end: float


class LoadedModel(TypedDict):
    """The model on the GPU."""

    id: str
    title: str
    config: dict[str, Any]
    context: int
    batch: int
    """Tokens a prefill batch, at most."""
    kv: CacheType
    precision: Bits
    ple: Literal["gpu", "host"] | None
    """Where per-layer embeddings are, where there are some."""
    chat: bool
    chat_problem: str | None
    tokenizer: bool
    """Without one the model takes and gives token ids only."""
    sampling: ModelSampling
    memory: Memory
    gpu_budget: int | None
    """Bytes, as they were asked for."""
    host_budget: int
    timings: dict[str, float]
    """Milliseconds by stage; stages overlap."""
    timeline: list[Stage]


class Speed(TypedDict):
    """Of one answer."""

    ttft_ms: float
    """Milliseconds to the first token."""
    prefill_tok_s: float
    decode_tok_s: float


class Drafts(TypedDict):
    """Batches with drafts that were run, and the tokens that came of them: 1 to 8 a batch."""

    batches: int
    tokens: int


AnswerEnd = FinishReason | Literal["tool_calls"]
"""tool_calls: the model stopped after a call, and waits for its result."""


class Tiers(TypedDict):
    """A number for each place that weights come from: the host's memory, storage, an address."""

    host: float
    storage: float
    remote: float


class Paging(TypedDict):
    """What it took that a mixture's experts are not all on the GPU, or a dense model's layers, or
    their keys and values.
    """

    gpu_budget: int | None
    """Bytes, as they were set."""
    host_budget: int
    slots: int
    """Experts that have room on the GPU, of all layers."""
    experts: int
    """That there are in these layers."""
    hits: int
    """Uses of an expert by a token that found it there."""
    misses: int
    """Experts that were brought because they were missing."""
    ahead: int
    """Experts that were brought since the router of the layer before chose them."""
    replays: int
    """Times that a token or batch went on from a router, when they had come."""
    halted_ms: float
    """Milliseconds from when a halt of a token was known until it was queued again."""
    layers: int
    """Layers of a dense model that are brought for every token or batch: the last ones."""
    kv_layers: int
    """Layers of a dense model whose keys and values lie in host memory."""
    kv_brought: int
    """Bytes of these that were brought to the GPU."""
    kv_read: int
    """Bytes of these that were read back, of new tokens."""
    bytes: Tiers
    waited_ms: Tiers
    host_bytes: int
    """Held in the host's memory now."""


class LayerExperts(TypedDict):
    """Of a layer that has room for some of its experts."""

    layer: int
    uses: list[int]
    """Of each expert, since the model was loaded."""
    resident: list[int]
    """Numbers of those that are on the GPU now."""


class Answered(TypedDict):
    """What the last answer took."""

    read: int
    """Tokens of its prompt that were computed."""
    written: int
    reading: Paging
    writing: Paging


class Residency(TypedDict):
    """Where the loaded model is now, and what brings the rest of it."""

    memory: Memory
    gpu_budget: int | None
    """Bytes, as they were asked for."""
    host_budget: int
    host_bytes: int
    """Held in the host's memory."""
    host_peak: int
    bytes: int
    """Of the model, as it is stored."""
    paging: Paging | None
    """Since it was loaded; null where all of it is on the GPU."""
    last: Answered | None
    layers: list[LayerExperts]


class GenerationResult(TypedDict):
    """What an answer or a continuation came to."""

    text: str
    """The answer alone."""
    tool_calls: list[MessageToolCall]
    notes: list[str]
    """What is odd in the answer, in a sentence each: a call in its text could not be read."""
    reasoning_content: str | None
    """What the model thought before, as far as it came; null where there is none."""
    finish_reason: AnswerEnd
    prompt_ids: list[int]
    generated_ids: list[int]
    reused_tokens: int
    """Of the prompt: tokens whose keys and values were still there."""
    dropped_messages: int
    """Oldest messages left out so that the rest fits."""
    timings: Speed
    drafts: Drafts
    paging: Paging | None
    """Of this answer; null where the whole model is on the GPU."""
    memory: Memory


class Routing(TypedDict):
    """Which experts a mixture's tokens use."""

    prompt_ids: list[int]
    tokens: list[list[list[int]]]
    """Of each token, of each layer: numbers of experts; none where a layer has no router."""


class Tuning(TypedDict):
    """What became of measuring."""

    refused: int
    """Kinds of matrices that were not measured: the GPU's budget has no room for it."""


class TokenIds(TypedDict):
    """A prompt as the model reads it."""

    ids: list[int]


class LogitsFile(TypedDict):
    """Where logits were written."""

    prompt_ids: list[int]
    rows: int
    vocab: int
    file: str
    """In the OPFS folder doppler/tmp: float32 [rows, vocab]."""
