"""Names of a layer's tensors in checkpoints -> those here, which are GGUF's, by family."""

from __future__ import annotations

LLAMA_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
# Of experts, "*" being the number of one; stacked ones have the names of formats/experts.py.
EXPERTS_LAYER = LLAMA_LAYER | {
    "mlp.gate": "ffn_gate_inp",
    "mlp.experts.*.gate_proj": "ffn_gate.*",
    "mlp.experts.*.up_proj": "ffn_up.*",
    "mlp.experts.*.down_proj": "ffn_down.*",
    "mlp.experts.gate_up_proj": "ffn_gate_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
}
SHARED_EXPERT_LAYER = EXPERTS_LAYER | {
    "mlp.shared_expert.gate_proj": "ffn_gate",
    "mlp.shared_expert.up_proj": "ffn_up",
    "mlp.shared_expert.down_proj": "ffn_down",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
}
GLM4_MOE_LAYER = EXPERTS_LAYER | {
    "mlp.gate.e_score_correction_bias": "exp_probs_b",
    "mlp.shared_experts.gate_proj": "ffn_gate",
    "mlp.shared_experts.up_proj": "ffn_up",
    "mlp.shared_experts.down_proj": "ffn_down",
}
ERNIE_MOE_LAYER = GLM4_MOE_LAYER | {
    "mlp.moe_statics.e_score_correction_bias": "exp_probs_b",
}
MIXTRAL_LAYER = EXPERTS_LAYER | {
    "block_sparse_moe.gate": "ffn_gate_inp",
    "block_sparse_moe.experts.*.w1": "ffn_gate.*",
    "block_sparse_moe.experts.*.w3": "ffn_up.*",
    "block_sparse_moe.experts.*.w2": "ffn_down.*",
}
GPT_OSS_LAYER = LLAMA_LAYER | {
    "self_attn.sinks": "attn_sinks",
    "mlp.router": "ffn_gate_inp",
    "mlp.experts.gate_up_proj": "ffn_gate_up_columns",
    "mlp.experts.down_proj": "ffn_down_columns",
}
GEMMA3_LAYER = LLAMA_LAYER | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
OLMO_LAYER = {name: ours for name, ours in LLAMA_LAYER.items() if "norm" not in name} | {
    "post_attention_layernorm": "post_attention_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
GEMMA4_LAYER = GEMMA3_LAYER | {
    "per_layer_input_gate": "inp_gate",
    "per_layer_projection": "proj",
    "post_per_layer_input_norm": "post_norm",
    "layer_scalar": "layer_output_scale",
}
GEMMA4_EXPERTS = {
    "router.proj": "ffn_gate_inp",
    "router.scale": "ffn_gate_inp_norm",
    "router.per_expert_scale": "ffn_exps_scale",
    "experts.gate_up_proj": "ffn_gate_up_exps",
    "experts.down_proj": "ffn_down_exps",
    "pre_feedforward_layernorm_2": "pre_ffw_norm_2",
    "post_feedforward_layernorm_1": "post_ffw_norm_1",
    "post_feedforward_layernorm_2": "post_ffw_norm_2",
}
FUSED_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_up_proj": "ffn_gate_up",
    "mlp.down_proj": "ffn_down",
}
APERTUS_LAYER = {
    name: ours
    for name, ours in LLAMA_LAYER.items()
    if "norm" not in name and name != "mlp.gate_proj"
} | {
    "attention_layernorm": "attn_norm",
    "feedforward_layernorm": "ffn_norm",
    **{f"mlp.act_fn.{name}": f"xielu_{name}" for name in ("alpha_p", "alpha_n", "beta", "eps")},
}
GLM4_LAYER = (
    FUSED_LAYER
    | LLAMA_LAYER
    | {
        "post_self_attn_layernorm": "post_attention_norm",
        "post_mlp_layernorm": "post_ffw_norm",
    }
)
LFM2_LAYER = {
    "operator_norm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_output",
    "self_attn.q_layernorm": "attn_q_norm",
    "self_attn.k_layernorm": "attn_k_norm",
    "conv.in_proj": "shortconv.in_proj",
    "conv.conv": "shortconv.conv",
    "conv.out_proj": "shortconv.out_proj",
    "ffn_norm": "ffn_norm",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w3": "ffn_up",
    "feed_forward.w2": "ffn_down",
}
LFM2_MOE_LAYER = LFM2_LAYER | {
    "feed_forward.gate": "ffn_gate_inp",
    "feed_forward.expert_bias": "exp_probs_b",
    "feed_forward.experts.*.w1": "ffn_gate.*",
    "feed_forward.experts.*.w3": "ffn_up.*",
    "feed_forward.experts.*.w2": "ffn_down.*",
    "feed_forward.experts.gate_up_proj": "ffn_gate_up_exps",
    "feed_forward.experts.down_proj": "ffn_down_exps",
}
HEAD_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
DELTA_LAYER = {
    "linear_attn.in_proj_qkv": "attn_qkv",
    "linear_attn.in_proj_z": "attn_gate",
    "linear_attn.in_proj_b": "ssm_beta",
    "linear_attn.in_proj_a": "ssm_alpha",
    "linear_attn.in_proj_qkvz": "ssm_in",
    "linear_attn.in_proj_ba": "ssm_ba",
    "linear_attn.conv1d": "ssm_conv1d",
    "linear_attn.dt_bias": "ssm_dt",
    "linear_attn.A_log": "ssm_a_log",
    "linear_attn.norm": "ssm_norm",
    "linear_attn.out_proj": "ssm_out",
}
