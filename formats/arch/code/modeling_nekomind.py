"""NekoMind: attention with an RMSNorm over every head of q and k before the rotation, and, beside dense layers, a sparse
block with a shared expert: out = sum of w_e expert_e(x) over the chosen + sigmoid(v . x) * shared(x)."""

import torch
from torch import nn

from .moegraft_decoder import DecoderConfig, DecoderForCausalLM, GatedMLP, route


class NekoMindConfig(DecoderConfig):
    model_type = "nekomind"

    def __init__(self, vocab_size=32006, hidden_size=1024, intermediate_size=3072, num_hidden_layers=18,
                 num_attention_heads=8, num_key_value_heads=4, head_dim=128, num_experts=32, num_experts_per_tok=4,
                 moe_intermediate_size=768, shared_expert_intermediate_size=768, norm_topk_prob=True,
                 mlp_only_layers=(), decoder_sparse_step=1, attention_bias=False, qk_norm=True, rms_norm_eps=1e-6,
                 max_position_embeddings=32768, use_cache=True, tie_word_embeddings=True, **kwargs):
        self.vocab_size, self.hidden_size, self.intermediate_size = vocab_size, hidden_size, intermediate_size
        self.num_hidden_layers, self.num_attention_heads = num_hidden_layers, num_attention_heads
        self.num_key_value_heads, self.head_dim = num_key_value_heads, head_dim
        self.num_experts = kwargs.pop("num_local_experts", num_experts)
        self.num_experts_per_tok, self.moe_intermediate_size = num_experts_per_tok, moe_intermediate_size
        self.shared_expert_intermediate_size = shared_expert_intermediate_size
        self.norm_topk_prob, self.mlp_only_layers = norm_topk_prob, list(mlp_only_layers)
        self.decoder_sparse_step, self.attention_bias, self.qk_norm = decoder_sparse_step, attention_bias, qk_norm
        self.rms_norm_eps = rms_norm_eps
        self.max_position_embeddings, self.use_cache = max_position_embeddings, use_cache
        self.take_rope(kwargs, 1000000.0)
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)


class SparseBlock(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.k, self.normalise = config.num_experts_per_tok, config.norm_topk_prob
        hidden, shared = config.hidden_size, config.shared_expert_intermediate_size
        self.gate = nn.Linear(hidden, config.num_experts, bias=False)
        self.experts = nn.ModuleList(GatedMLP(hidden, config.moe_intermediate_size) for _ in range(config.num_experts))
        self.shared_expert = GatedMLP(hidden, shared) if shared else None
        self.shared_expert_gate = nn.Linear(hidden, 1, bias=False) if shared else None

    def forward(self, x):
        flat = x.flatten(0, -2)
        weights, chosen = route(self.gate(flat), self.k, self.normalise)
        weights, out = weights.to(flat.dtype), torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            token, place = (chosen == e).nonzero(as_tuple=True)
            out.index_add_(0, token, expert(flat[token]) * weights[token, place, None])
        if self.shared_expert is not None:
            out = out + torch.sigmoid(self.shared_expert_gate(flat)) * self.shared_expert(flat)
        return out.view_as(x)


class NekoMindForCausalLM(DecoderForCausalLM):
    config_class = NekoMindConfig

    def block(self, config, layer):
        dense = layer in config.mlp_only_layers or (layer + 1) % config.decoder_sparse_step
        return GatedMLP(config.hidden_size, config.intermediate_size) if dense else SparseBlock(config)
