"""Writes tests/fixtures: tiny random checkpoints with the logits that transformers gives for them.

    python scripts/make_fixtures.py [FOLDER]

Needs torch and transformers (made with 2.13 and 5.23, later families with 5.24), which neither the
tests nor Doppler need.
Each fixture holds config.json, safetensors files and reference.npz: `ids` [n] of a prompt, and
`logits` float32 [m, vocab] of its last m positions (all of them, but for the long prompt), computed
eagerly in float32 from the weights as the files hold them. Where a rope differs in short contexts,
`short` has the logits of the first ids alone.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import (
    ApertusConfig,
    ApertusForCausalLM,
    Ernie4_5_MoeConfig,
    Ernie4_5_MoeForCausalLM,
    Ernie4_5Config,
    Ernie4_5ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Gemma4Config,
    Gemma4ForCausalLM,
    Gemma4TextConfig,
    Glm4Config,
    Glm4ForCausalLM,
    Glm4MoeConfig,
    Glm4MoeForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    GraniteMoeHybridConfig,
    GraniteMoeHybridForCausalLM,
    HunYuanDenseV1Config,
    HunYuanDenseV1ForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    Lfm2MoeConfig,
    Lfm2MoeForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Ministral3Config,
    Ministral3ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Olmo3Config,
    Olmo3ForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3_5Config,
    Qwen3_5ForCausalLM,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForCausalLM,
    Qwen3_5MoeTextConfig,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32


@dataclass
class Fixture:
    """`types` are dealt out to the matrices in turn; norms get the last. `parts` are files."""

    model: type[PreTrainedModel]
    config: PretrainedConfig
    seed: int
    prompt: int
    kept: int  # positions whose logits are kept, from the end
    types: tuple[torch.dtype, ...]
    parts: int = 1
    wrapper: type[PretrainedConfig] | None = None  # it is the text part of a model of this config
    original: bool = False  # experts one by one, as Mixtral was published
    mxfp4: bool = False  # experts' matrices as blocks and scales
    norm_mean: float = 0.0
    query_norm: float = 1.0  # what its weights are multiplied by, where nothing scales scores
    short: int = 0  # first ids of the prompt that are a prompt of their own
    extra: dict[str, torch.Tensor] = field(default_factory=dict)
    published: tuple[str, str] = ("", "")  # parts of names: transformers' own, and what files have


def gemma(**changes: Any) -> Gemma3TextConfig:
    """A small Gemma 3, with the pattern of five sliding layers and a global one."""
    layers = changes["num_hidden_layers"]
    kinds = ["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(layers)]
    base = {"layer_types": kinds, "max_position_embeddings": 1024, "rms_norm_eps": 1e-6}
    return Gemma3TextConfig(**base, **changes)


def ropes(**full: Any) -> dict[str, Any]:
    """rope_parameters of a Gemma 3 whose global layers have `full` besides."""
    local = {"rope_type": "default", "rope_theta": 10_000.0}
    return {
        "sliding_attention": local,
        "full_attention": {"rope_type": "default", "rope_theta": 1_000_000.0, **full},
    }


def gemma4(**changes: Any) -> Gemma4TextConfig:
    """A small Gemma 4, of whose layers every third sees all keys."""
    layers = changes["num_hidden_layers"]
    kinds = ["full_attention" if (i + 1) % 3 == 0 else "sliding_attention" for i in range(layers)]
    return Gemma4TextConfig(
        layer_types=kinds,
        max_position_embeddings=1024,
        sliding_window=16,
        final_logit_softcapping=3.0,
        rms_norm_eps=1e-4,  # large enough to be seen where norms would cancel factors
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            "full_attention": {
                "rope_type": "proportional",
                "partial_rotary_factor": 0.25,
                "rope_theta": 1_000_000.0,
            },
        },
        **changes,
    )


def gpt_oss(**changes: Any) -> GptOssConfig:
    """A small GPT-OSS, whose YaRN shows within 96 tokens."""
    return GptOssConfig(
        vocab_size=304,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=32,
        num_experts_per_tok=4,
        sliding_window=16,
        max_position_embeddings=1024,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 150_000.0,
            "factor": 32.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 64,
        },
        **changes,
    )


def fixtures() -> dict[str, Fixture]:
    """The checkpoints by name. Sizes are odd where the architecture lets them be."""
    return {
        "gemma2-like": Fixture(
            Gemma2ForCausalLM,
            Gemma2Config(
                vocab_size=303,
                hidden_size=60,
                intermediate_size=70,
                num_hidden_layers=4,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=24,
                query_pre_attn_scalar=24,
                sliding_window=16,
                max_position_embeddings=1024,
                attn_logit_softcapping=0.5,  # so low that the scores of random weights show it
                final_logit_softcapping=3.0,
            ),
            seed=40,
            prompt=96,
            kept=96,
            types=(BF16,),
        ),
        "gemma3-1b-like": Fixture(
            Gemma3ForCausalLM,
            gemma(
                vocab_size=307,
                hidden_size=64,
                intermediate_size=90,
                num_hidden_layers=8,
                num_attention_heads=4,
                num_key_value_heads=1,
                head_dim=32,
                query_pre_attn_scalar=32,
                sliding_window=16,
                rope_parameters=ropes(),
            ),
            seed=0,
            prompt=96,
            kept=96,
            types=(BF16,),
        ),
        "gemma3-4b-like": Fixture(
            Gemma3ForCausalLM,
            gemma(
                vocab_size=300,
                hidden_size=72,
                intermediate_size=58,
                num_hidden_layers=12,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=16,
                query_pre_attn_scalar=24,
                sliding_window=16,
                rope_parameters=ropes(rope_type="linear", factor=8.0),
            ),
            seed=1,
            prompt=96,
            kept=96,
            types=(BF16, F16, BF16, F16, F32),
            wrapper=Gemma3Config,
            extra={"vision_tower.vision_model.post_layernorm.weight": torch.ones(4, dtype=BF16)},
        ),
        "llama32-like": Fixture(
            LlamaForCausalLM,
            LlamaConfig(
                vocab_size=301,
                hidden_size=66,
                intermediate_size=90,
                num_hidden_layers=4,
                num_attention_heads=6,
                num_key_value_heads=2,
                head_dim=32,
                max_position_embeddings=1024,
                rms_norm_eps=1e-5,
                tie_word_embeddings=True,
                rope_parameters={
                    "rope_type": "llama3",
                    "rope_theta": 500_000.0,
                    "factor": 32.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 64,  # so that 96 tokens show the scaling
                },
            ),
            seed=2,
            prompt=96,
            kept=96,
            types=(BF16, F32, F16),
            parts=2,
            norm_mean=1.0,
        ),
        "qwen2-like": Fixture(
            Qwen2ForCausalLM,
            Qwen2Config(
                vocab_size=299,
                hidden_size=72,
                intermediate_size=58,
                num_hidden_layers=4,
                num_attention_heads=6,
                num_key_value_heads=2,
                max_position_embeddings=1024,
                rms_norm_eps=1e-6,
                tie_word_embeddings=True,
                rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
            ),
            seed=3,
            prompt=96,
            kept=96,
            types=(BF16,),
            norm_mean=1.0,
        ),
        "qwen3-like": Fixture(
            Qwen3ForCausalLM,
            Qwen3Config(
                vocab_size=302,
                hidden_size=60,
                intermediate_size=74,
                num_hidden_layers=4,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=32,
                max_position_embeddings=1024,
                rms_norm_eps=1e-6,
                tie_word_embeddings=False,
                rope_parameters={
                    "rope_type": "yarn",
                    "rope_theta": 1_000_000.0,
                    "factor": 4.0,
                    "original_max_position_embeddings": 32,  # so that 96 tokens show the scaling
                },
            ),
            seed=4,
            prompt=96,
            kept=96,
            types=(F16, BF16),
            norm_mean=1.0,
        ),
        "qwen35-like": Fixture(
            Qwen3_5ForCausalLM,
            Qwen3_5TextConfig(
                vocab_size=300,
                hidden_size=64,
                intermediate_size=74,
                num_hidden_layers=4,  # three of Gated DeltaNet, then one of attention
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=32,
                linear_num_key_heads=3,
                linear_num_value_heads=6,
                linear_key_head_dim=20,
                linear_value_head_dim=12,
                max_position_embeddings=1024,
                rms_norm_eps=1e-4,
                tie_word_embeddings=True,
                rope_parameters={
                    "rope_type": "default",
                    "rope_theta": 10_000.0,
                    "partial_rotary_factor": 0.25,
                    "mrope_section": [2, 1, 1],
                    "mrope_interleaved": True,
                },
            ),
            seed=16,
            prompt=96,
            kept=96,
            types=(BF16,),
            wrapper=Qwen3_5Config,
            extra={
                "model.visual.patch_embed.proj.weight": torch.ones(4, 3, dtype=BF16),
                "mtp.fc.weight": torch.ones(4, 8, dtype=BF16),
                "mtp.layers.0.self_attn.q_norm.weight": torch.ones(4, dtype=BF16),
            },
        ),
        "qwen35moe-like": Fixture(
            Qwen3_5MoeForCausalLM,
            Qwen3_5MoeTextConfig(
                vocab_size=280,
                hidden_size=48,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                head_dim=16,
                linear_num_key_heads=2,
                linear_num_value_heads=2,
                linear_key_head_dim=8,
                linear_value_head_dim=16,
                layer_types=["linear_attention", "full_attention"],
                num_experts=4,
                num_experts_per_tok=2,
                moe_intermediate_size=12,
                shared_expert_intermediate_size=20,
                max_position_embeddings=1024,
                rms_norm_eps=1e-4,
                tie_word_embeddings=True,
                rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            ),
            seed=18,
            prompt=96,
            kept=96,
            types=(BF16,),
            wrapper=Qwen3_5MoeConfig,
        ),
        "qwen3next-like": Fixture(
            Qwen3NextForCausalLM,
            Qwen3NextConfig(
                vocab_size=290,
                hidden_size=48,
                intermediate_size=64,
                num_hidden_layers=3,
                num_attention_heads=3,
                num_key_value_heads=1,
                head_dim=16,
                linear_num_key_heads=2,
                linear_num_value_heads=4,
                linear_key_head_dim=16,
                linear_value_head_dim=16,
                layer_types=["linear_attention", "linear_attention", "full_attention"],
                num_experts=6,
                num_experts_per_tok=3,
                moe_intermediate_size=20,
                shared_expert_intermediate_size=28,
                norm_topk_prob=True,
                max_position_embeddings=1024,
                rms_norm_eps=1e-4,
                tie_word_embeddings=False,
                rope_parameters={
                    "rope_type": "default",
                    "rope_theta": 10_000.0,
                    "partial_rotary_factor": 0.5,
                },
            ),
            seed=17,
            prompt=96,
            kept=96,
            types=(BF16,),
        ),
        "gemma3-long": Fixture(
            Gemma3ForCausalLM,
            gemma(
                vocab_size=260,
                hidden_size=48,
                intermediate_size=64,
                num_hidden_layers=7,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=16,
                query_pre_attn_scalar=16,
                sliding_window=64,
                rope_parameters=ropes(),
            ),
            seed=3,
            prompt=700,
            kept=1,
            types=(BF16,),
        ),
        "mixtral-like": Fixture(
            MixtralForCausalLM,
            MixtralConfig(
                vocab_size=305,
                hidden_size=64,
                intermediate_size=52,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=2,
                num_local_experts=6,
                num_experts_per_tok=2,
                max_position_embeddings=1024,
                rms_norm_eps=1e-5,
                sliding_window=None,
                tie_word_embeddings=False,
                rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
            ),
            seed=5,
            prompt=96,
            kept=96,
            types=(BF16,),
            norm_mean=1.0,
            original=True,
        ),
        "gpt-oss-like": Fixture(
            GptOssForCausalLM,
            gpt_oss(hidden_size=76, intermediate_size=44, num_local_experts=9),
            seed=6,
            prompt=96,
            kept=96,
            types=(BF16,),
            norm_mean=1.0,
        ),
        "gpt-oss-mxfp4-like": Fixture(
            GptOssForCausalLM,
            gpt_oss(hidden_size=64, intermediate_size=96, num_local_experts=8),
            seed=7,
            prompt=96,
            kept=96,
            types=(BF16,),
            norm_mean=1.0,
            mxfp4=True,
        ),
        "gemma4-e2b-like": Fixture(
            Gemma4ForCausalLM,
            gemma4(
                vocab_size=290,
                vocab_size_per_layer_input=290,
                hidden_size=60,
                intermediate_size=68,
                num_hidden_layers=9,
                num_attention_heads=4,
                num_key_value_heads=1,
                head_dim=16,
                global_head_dim=32,
                hidden_size_per_layer_input=20,
                num_kv_shared_layers=5,
                use_double_wide_mlp=True,
            ),
            seed=9,
            prompt=96,
            kept=96,
            types=(BF16,),
            norm_mean=1.0,
            query_norm=0.25,
            wrapper=Gemma4Config,
            extra={
                "model.vision_tower.patch_embedder.input_proj.weight": torch.ones(4, dtype=BF16)
            },
        ),
        "gemma4-12b-like": Fixture(
            Gemma4ForCausalLM,
            gemma4(
                vocab_size=306,
                hidden_size=72,
                intermediate_size=90,
                num_hidden_layers=6,
                num_attention_heads=8,
                num_key_value_heads=4,
                head_dim=16,
                global_head_dim=40,
                num_global_key_value_heads=1,
                hidden_size_per_layer_input=0,
                attention_k_eq_v=True,
            ),
            seed=10,
            prompt=96,
            kept=96,
            types=(BF16, F16),
            norm_mean=1.0,
            query_norm=0.25,
        ),
        "gemma4-26b-like": Fixture(
            Gemma4ForCausalLM,
            gemma4(
                vocab_size=294,
                hidden_size=50,
                intermediate_size=76,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=16,
                global_head_dim=32,
                num_global_key_value_heads=1,
                hidden_size_per_layer_input=0,
                attention_k_eq_v=True,
                enable_moe_block=True,
                num_experts=9,
                top_k_experts=3,
                moe_intermediate_size=28,
            ),
            seed=15,
            prompt=96,
            kept=96,
            types=(BF16,),
            norm_mean=1.0,
            query_norm=0.25,
        ),
        "qwen3moe-like": Fixture(
            Qwen3MoeForCausalLM,
            Qwen3MoeConfig(
                vocab_size=303,
                hidden_size=60,
                intermediate_size=100,
                moe_intermediate_size=42,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=32,
                num_experts=7,
                num_experts_per_tok=3,
                norm_topk_prob=False,
                use_sliding_window=True,
                sliding_window=16,
                max_position_embeddings=1024,
                rms_norm_eps=1e-6,
                tie_word_embeddings=False,
                rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
            ),
            seed=8,
            prompt=96,
            kept=96,
            types=(BF16, F32),
            norm_mean=1.0,
        ),
        "qwen2moe-like": Fixture(
            Qwen2MoeForCausalLM,
            Qwen2MoeConfig(
                vocab_size=297,
                hidden_size=72,
                intermediate_size=100,
                moe_intermediate_size=36,
                shared_expert_intermediate_size=52,
                num_hidden_layers=3,
                num_attention_heads=6,
                num_key_value_heads=2,
                num_experts=8,
                num_experts_per_tok=3,
                norm_topk_prob=False,
                max_position_embeddings=1024,
                rms_norm_eps=1e-6,
                tie_word_embeddings=False,
                rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
            ),
            seed=16,
            prompt=96,
            kept=96,
            types=(BF16,),
            norm_mean=1.0,
        ),
        "granite-like": Fixture(
            GraniteForCausalLM,
            GraniteConfig(
                vocab_size=306,
                hidden_size=60,
                intermediate_size=74,
                num_hidden_layers=3,
                num_attention_heads=5,
                num_key_value_heads=1,
                max_position_embeddings=1024,
                rms_norm_eps=0.05,  # so that it shows that branches are scaled
                embedding_multiplier=6.0,
                attention_multiplier=0.5,
                residual_multiplier=0.35,
                logits_scaling=1.5,
                tie_word_embeddings=True,
                rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            ),
            seed=9,
            prompt=96,
            kept=96,
            types=(BF16,),
            norm_mean=1.0,
        ),
        "mistral-like": Fixture(
            MistralForCausalLM,
            MistralConfig(
                vocab_size=300,
                hidden_size=56,
                intermediate_size=70,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=20,
                max_position_embeddings=1024,
                rms_norm_eps=1e-5,
                sliding_window=16,
                tie_word_embeddings=False,
                rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
            ),
            seed=11,
            prompt=96,
            kept=96,
            types=(BF16,),
            norm_mean=1.0,
        ),
        "ernie45-like": Fixture(
            Ernie4_5ForCausalLM,
            Ernie4_5Config(
                vocab_size=303,
                hidden_size=68,
                intermediate_size=62,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=24,
                max_position_embeddings=1024,
                rms_norm_eps=1e-5,
                use_bias=False,
                tie_word_embeddings=True,
                rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
            ),
            seed=13,
            prompt=96,
            kept=96,
            types=(BF16,),
            norm_mean=1.0,
        ),
        "granite4-like": Fixture(
            GraniteMoeHybridForCausalLM,
            GraniteMoeHybridConfig(
                vocab_size=299,
                hidden_size=64,
                shared_intermediate_size=70,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                num_local_experts=0,
                num_experts_per_tok=0,
                layer_types=["full_attention"] * 2,
                position_embedding_type="rope",
                max_position_embeddings=1024,
                rms_norm_eps=1e-5,
                embedding_multiplier=6.0,
                attention_multiplier=0.5,
                residual_multiplier=0.35,
                logits_scaling=1.5,
                tie_word_embeddings=True,
                rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            ),
            seed=16,
            prompt=96,
            kept=96,
            types=(BF16,),
            norm_mean=1.0,
        ),
        "hunyuan-like": Fixture(
            HunYuanDenseV1ForCausalLM,
            HunYuanDenseV1Config(
                vocab_size=301,
                hidden_size=60,
                intermediate_size=74,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=32,
                max_position_embeddings=1024,
                rms_norm_eps=1e-5,
                tie_word_embeddings=True,
                rope_parameters={
                    "rope_type": "dynamic",
                    "rope_theta": 10_000.0,
                    "alpha": 50.0,
                    "factor": 1.0,
                },
            ),
            seed=14,
            prompt=96,
            kept=96,
            types=(BF16,),
            norm_mean=1.0,
        ),
        "ministral3-like": Fixture(
            Ministral3ForCausalLM,
            Ministral3Config(
                vocab_size=305,
                hidden_size=60,
                intermediate_size=70,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=24,
                max_position_embeddings=1024,
                rms_norm_eps=1e-5,
                tie_word_embeddings=False,
                rope_parameters={
                    "rope_type": "yarn",
                    "rope_theta": 10_000.0,
                    "factor": 8.0,
                    "original_max_position_embeddings": 20,  # so that queries grow four times
                    "beta_fast": 32.0,
                    "beta_slow": 1.0,
                    "mscale": 1.0,
                    "mscale_all_dim": 0.5,
                    "llama_4_scaling_beta": 0.5,
                },
            ),
            seed=15,
            prompt=96,
            kept=96,
            types=(BF16,),
            norm_mean=1.0,
        ),
        "glm4-like": Fixture(
            Glm4ForCausalLM,
            Glm4Config(
                vocab_size=299,
                hidden_size=60,
                intermediate_size=70,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=24,
                max_position_embeddings=1024,
                rms_norm_eps=1e-5,
                attention_bias=True,
                pad_token_id=None,
                rope_parameters={
                    "rope_type": "default",
                    "rope_theta": 10_000.0,
                    "partial_rotary_factor": 0.5,
                },
            ),
            seed=43,
            prompt=96,
            kept=96,
            types=(BF16,),
            norm_mean=1.0,
        ),
        "apertus-like": Fixture(
            ApertusForCausalLM,
            ApertusConfig(
                vocab_size=294,
                hidden_size=60,
                intermediate_size=70,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=24,
                max_position_embeddings=1024,
                rope_parameters={
                    "rope_type": "llama3",
                    "rope_theta": 12_000_000.0,
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 64,  # so that 96 tokens show the scaling
                },
            ),
            seed=46,
            prompt=96,
            kept=96,
            types=(BF16,),
            norm_mean=1.0,
        ),
        "ernie45moe-like": Fixture(
            Ernie4_5_MoeForCausalLM,
            Ernie4_5_MoeConfig(
                vocab_size=293,
                hidden_size=52,
                intermediate_size=60,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=16,
                max_position_embeddings=1024,
                moe_intermediate_size=20,
                moe_k=3,
                moe_num_experts=7,
                moe_num_shared_experts=2,
                rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
            ),
            seed=45,
            prompt=96,
            kept=96,
            types=(BF16,),
            norm_mean=1.0,
            published=(".gate.moe_statics.", ".moe_statics."),
        ),
        "glm4moe-like": Fixture(
            Glm4MoeForCausalLM,
            Glm4MoeConfig(
                vocab_size=295,
                hidden_size=56,
                intermediate_size=60,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=24,
                max_position_embeddings=1024,
                attention_bias=True,
                use_qk_norm=True,
                moe_intermediate_size=20,
                num_experts_per_tok=3,
                n_shared_experts=2,
                n_routed_experts=7,
                routed_scaling_factor=1.75,
                first_k_dense_replace=1,
                rope_parameters={
                    "rope_type": "default",
                    "rope_theta": 10_000.0,
                    "partial_rotary_factor": 0.5,
                },
            ),
            seed=44,
            prompt=96,
            kept=96,
            types=(BF16,),
            norm_mean=1.0,
            # Of a layer that predicts the token after the next one.
            extra={
                "model.layers.3.eh_proj.weight": torch.ones(56, 112, dtype=BF16),
                "model.layers.3.input_layernorm.weight": torch.ones(56, dtype=BF16),
                "model.layers.3.shared_head.norm.weight": torch.ones(56, dtype=BF16),
            },
        ),
        "olmo2-like": Fixture(
            Olmo2ForCausalLM,
            Olmo2Config(
                vocab_size=302,
                hidden_size=72,
                intermediate_size=70,
                num_hidden_layers=3,
                num_attention_heads=3,
                num_key_value_heads=1,
                max_position_embeddings=1024,
                rms_norm_eps=1e-5,
                rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
            ),
            seed=41,
            prompt=96,
            kept=96,
            types=(BF16,),
            norm_mean=1.0,
        ),
        "olmo3-like": Fixture(
            Olmo3ForCausalLM,
            Olmo3Config(
                vocab_size=297,
                hidden_size=64,
                intermediate_size=58,
                num_hidden_layers=4,
                num_attention_heads=4,
                num_key_value_heads=4,
                max_position_embeddings=256,
                sliding_window=16,
                rope_parameters={
                    "full_attention": {
                        "rope_type": "yarn",
                        "rope_theta": 500_000.0,
                        "factor": 8.0,
                        "original_max_position_embeddings": 32,
                        "attention_factor": 1.5,
                        "beta_fast": 32.0,
                        "beta_slow": 1.0,
                    },
                    "sliding_attention": {"rope_type": "default", "rope_theta": 500_000.0},
                },
            ),
            seed=42,
            prompt=96,
            kept=96,
            types=(BF16,),
            norm_mean=1.0,
        ),
        "phi3-like": Fixture(
            Phi3ForCausalLM,
            Phi3Config(
                vocab_size=296,
                hidden_size=72,
                intermediate_size=54,
                num_hidden_layers=3,
                num_attention_heads=3,
                num_key_value_heads=1,
                max_position_embeddings=1024,
                original_max_position_embeddings=64,  # so that 96 tokens are a long context
                rms_norm_eps=1e-5,
                sliding_window=24,
                tie_word_embeddings=True,
                pad_token_id=None,
                rope_parameters={
                    "rope_type": "longrope",
                    "rope_theta": 10_000.0,
                    "partial_rotary_factor": 0.75,  # 18 of 24 dimensions
                    "short_factor": [1.0, 1.1, 1.2, 1.5, 1.9, 2.5, 3.0, 3.0, 3.2],
                    "long_factor": [1.0, 2.0, 3.5, 6.0, 9.0, 14.0, 16.0, 18.0, 20.0],
                },
            ),
            seed=12,
            prompt=96,
            kept=96,
            types=(BF16,),
            norm_mean=1.0,
            short=48,
        ),
        "lfm2-like": Fixture(
            Lfm2ForCausalLM,
            Lfm2Config(
                vocab_size=303,
                hidden_size=60,
                intermediate_size=110,
                block_multiple_of=24,
                block_ffn_dim_multiplier=1.1,  # 96 columns
                num_hidden_layers=4,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=20,
                max_position_embeddings=1024,
                norm_eps=1e-5,
                tie_word_embeddings=True,
                layer_types=["conv", "full_attention", "conv", "conv"],
                rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
            ),
            seed=18,
            prompt=96,
            kept=96,
            types=(BF16,),
            norm_mean=1.0,
        ),
        "lfm2moe-like": Fixture(
            Lfm2MoeForCausalLM,
            Lfm2MoeConfig(
                vocab_size=306,
                hidden_size=56,
                intermediate_size=60,
                moe_intermediate_size=20,
                num_hidden_layers=4,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=20,
                max_position_embeddings=1024,
                norm_eps=1e-5,
                conv_L_cache=4,
                layer_types=["conv", "conv", "full_attention", "conv"],
                num_dense_layers=1,
                num_experts=7,
                num_experts_per_tok=3,
                routed_scaling_factor=1.75,
                rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
            ),
            seed=19,
            prompt=96,
            kept=96,
            types=(BF16,),
            norm_mean=1.0,
        ),
        "smollm3-like": Fixture(
            SmolLM3ForCausalLM,
            SmolLM3Config(
                vocab_size=298,
                hidden_size=64,
                intermediate_size=76,
                num_hidden_layers=5,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=1024,
                rms_norm_eps=1e-6,
                tie_word_embeddings=True,
                pad_token_id=None,
                rope_parameters={"rope_type": "default", "rope_theta": 5_000_000.0},
            ),
            seed=10,
            prompt=96,
            kept=96,
            types=(BF16,),
            norm_mean=1.0,
        ),
    }


def fill(model: PreTrainedModel, fixture: Fixture) -> dict[str, torch.Tensor]:
    """Sets random weights that every type can hold exactly; returns them as they are stored."""
    stored: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for name, scalar in model.named_buffers():
            if name.endswith("layer_scalar"):
                stored[name] = (0.6 + 0.8 * torch.rand(1)).to(fixture.types[-1])
                scalar.copy_(stored[name].float())
            if name.endswith("act_fn.beta"):
                scalar.copy_((0.3 + 0.4 * torch.rand(())).to(BF16))
            if name.endswith(("act_fn.beta", "act_fn.eps")):
                stored[name] = scalar.to(BF16)
            if name.endswith(("e_score_correction_bias", "expert_bias")):
                stored[name] = 0.3 * torch.randn(scalar.shape)
                scalar.copy_(stored[name])
        for index, (name, weight) in enumerate(model.named_parameters()):
            if name.endswith("linear_attn.A_log"):
                value = 1.5 * torch.randn(weight.shape) - 2  # memories short and long
                kind = F32
            elif weight.dim() == 1 and name.endswith(("dt_bias", "linear_attn.norm.weight")):
                value = 1 + (0.3 if "norm" in name else 1) * torch.randn(weight.shape)
                kind = fixture.types[-1]
            elif weight.dim() == 1:
                value = fixture.norm_mean + 0.3 * torch.randn(weight.shape)
                value *= fixture.query_norm if name.endswith("q_norm.weight") else 1
                kind = fixture.types[-1]
            elif name.endswith("e_score_correction_bias"):
                value, kind = 0.1 * torch.randn(weight.shape), F32
            elif name.endswith(("_bias", ".bias")):
                value = torch.randn(weight.shape)
                kind = fixture.types[-1]
            else:
                # [.., rows, columns], but of GPT-OSS's experts [expert, columns, rows].
                inner = weight.shape[1 if fixture.config.model_type == "gpt_oss" else -1]
                spread = 0.25 if "embed_tokens" in name else inner**-0.5
                value = spread * torch.randn(weight.shape)
                kind = fixture.types[index % len(fixture.types)]
            if fixture.mxfp4 and weight.dim() == 3:
                value, parts = mxfp4(weight.shape)
                stored |= {f"{name}_{part}": data for part, data in parts.items()}
                weight.copy_(value)
            else:
                stored[name] = value.to(kind)
                weight.copy_(stored[name].float())
    return stored


def mxfp4(shape: torch.Size) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Random weights [experts, columns, rows], and the blocks and scales that stand for them."""
    experts, columns, rows = shape
    codes = torch.randint(0, 16, (experts, rows, columns // 32, 32), dtype=torch.uint8)
    exponents = torch.randint(121, 124, (experts, rows, columns // 32), dtype=torch.uint8)
    magnitudes = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    values = torch.cat([magnitudes, -magnitudes])[codes.long()]
    weights = torch.ldexp(values, exponents.int()[..., None] - 127)
    blocks = codes[..., 0::2] | (codes[..., 1::2] << 4)
    matrix = weights.reshape(experts, rows, columns).transpose(1, 2)
    return matrix, {"blocks": blocks, "scales": exponents}


def one_by_one(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Mixtral's tensors by the names under which it was published: those of each expert apart."""
    found: dict[str, torch.Tensor] = {}
    for name, value in stored.items():
        old = name.replace(".mlp.", ".block_sparse_moe.")
        for expert in range(len(value) if value.dim() == 3 else 0):
            prefix = f"{old.rpartition('.')[0]}.{expert}"
            parts = {"w2": value[expert]}
            if name.endswith("gate_up_proj"):
                parts = dict(zip(("w1", "w3"), value[expert].chunk(2), strict=True))
            found |= {f"{prefix}.{part}.weight": data.clone() for part, data in parts.items()}
        if value.dim() < 3:
            found[old] = value
    return found


def save(folder: Path, stored: dict[str, torch.Tensor], fixture: Fixture) -> None:
    """config.json and the weights, in one file or in several with an index."""
    config: PretrainedConfig = fixture.config
    if fixture.wrapper is Gemma3Config:
        config = Gemma3Config(text_config=fixture.config, architectures=["Gemma3"])
        stored = {f"language_model.{name}": value for name, value in stored.items()}
    elif fixture.wrapper is not None:
        others = {"vision_config": None}
        others |= {"audio_config": None} if fixture.wrapper is Gemma4Config else {}
        config = fixture.wrapper(text_config=fixture.config, **others)
        stored = {f"model.language_{name}": value for name, value in stored.items()}
    if fixture.original:
        stored = one_by_one(stored)
    stored = {name.replace(*fixture.published): value for name, value in stored.items()}
    stored |= fixture.extra
    config.save_pretrained(folder)
    if fixture.parts == 1:
        save_file(stored, folder / "model.safetensors")
        return
    places = {}
    names = sorted(stored)
    for part in range(fixture.parts):
        file = f"model-{part + 1:05d}-of-{fixture.parts:05d}.safetensors"
        chosen = names[part :: fixture.parts]
        save_file({name: stored[name] for name in chosen}, folder / file)
        places |= dict.fromkeys(chosen, file)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def make(folder: Path, fixture: Fixture) -> None:
    """Writes one fixture and says how its logits spread."""
    folder.mkdir(parents=True, exist_ok=True)
    fixture.config._attn_implementation = "eager"
    fixture.config._experts_implementation = "eager"  # others want widths in multiples of 16 bytes
    model = fixture.model(fixture.config).float().eval()
    stored = fill(model, fixture)
    ids = torch.randint(0, fixture.config.vocab_size, (fixture.prompt,))
    with torch.no_grad():
        logits = model(ids[None]).logits[0, -fixture.kept :].float().numpy()
        arrays = {"ids": ids.numpy().astype(np.int32), "logits": logits}
        if fixture.short:
            arrays["short"] = model(ids[None, : fixture.short]).logits[0].float().numpy()
    save(folder, stored, fixture)
    np.savez_compressed(folder / "reference.npz", **arrays)
    print(f"{folder.name}: logits {logits.shape}, standard deviation {logits.std():.2f}")


def main() -> None:
    """Every fixture."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else "tests/fixtures")
    for name, fixture in fixtures().items():
        torch.manual_seed(fixture.seed)
        make(root / name, fixture)


if __name__ == "__main__":
    main()
