"""What was generated -> what the page is told of it, on the way and at the end."""

from __future__ import annotations

from doppler.api.messages import (
    GenerationResult,
    Memory,
    MessageToolCall,
    Paging,
    TokenEvent,
    ToolCallEvent,
)
from doppler.engine.generation import Generation
from doppler.text.answer import Output, Shown
from doppler.text.tools import ToolCall


def event(shown: Shown | ToolCall, output: Output) -> TokenEvent | ToolCallEvent:
    """What is told of the next part of `output`."""
    if isinstance(shown, ToolCall):
        return {"type": "tool_call", "index": len(output.calls) - 1, "call": _call(shown)}
    return {
        "type": "token",
        "id": shown.token,
        "text": shown.text,
        "n": shown.count,
        "part": shown.part,
    }


def result_of(
    output: Output,
    ids: list[int],
    result: Generation,
    paging: Paging | None,
    memory: Memory,
) -> GenerationResult:
    """Of an answer to the prompt `ids`."""
    called = result.finish_reason == "stop" and output.ends_with_call
    return {
        "text": output.text,
        "reasoning_content": output.reasoning,
        "tool_calls": [_call(call) for call in output.calls],
        "notes": list(output.notes),
        "finish_reason": "tool_calls" if called else result.finish_reason,
        "prompt_ids": ids,
        "generated_ids": result.ids,
        "reused_tokens": result.reused_tokens,
        "dropped_messages": 0,
        "drafts": {"batches": result.batches, "tokens": result.batch_tokens},
        "timings": {
            "ttft_ms": result.ttft_ms,
            "prefill_tok_s": result.prefill_tok_s,
            "decode_tok_s": result.decode_tok_s,
        },
        "paging": paging,
        "memory": memory,
    }


def _call(call: ToolCall) -> MessageToolCall:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": dict(call.arguments)},
        "raw": call.raw,
    }
