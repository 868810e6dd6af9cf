"""Mesh: experts on a grid of columns x rows that exchange their outputs with neighbours a token has chosen too.

For a token x, expert e = row * columns + column:
    p = softmax(gate x) in float32, S = the routing_k largest (0: all), w = p over S, divided by its sum
    out = sum of w_e (y_e + exchange_scale * sum of X(n -> e) y_n), n the neighbours of e in S, y_e = expert e of x"""

import torch
from torch import nn

from .moegraft_decoder import DecoderConfig, DecoderForCausalLM, GatedMLP, route


class MeshConfig(DecoderConfig):
    model_type = "mesh"

    def __init__(self, vocab_size=50257, hidden_size=1280, num_hidden_layers=12, num_attention_heads=20,
                 num_key_value_heads=None, head_dim=None, mesh_grid_size=(2, 2), expert_intermediate_size=648,
                 routing_k=2, norm_topk_prob=True, neighbor_exchange=True, exchange_scale=1.0, rms_norm_eps=1e-6,
                 max_position_embeddings=2048, use_cache=True, tie_word_embeddings=True, **kwargs):
        self.vocab_size, self.hidden_size, self.num_hidden_layers = vocab_size, hidden_size, num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads or num_attention_heads
        self.head_dim = head_dim or hidden_size // num_attention_heads
        self.mesh_grid_size, self.expert_intermediate_size = list(mesh_grid_size), expert_intermediate_size
        self.routing_k, self.norm_topk_prob = routing_k, norm_topk_prob
        self.neighbor_exchange = kwargs.pop("neighbor_exchange_enabled", neighbor_exchange)
        self.exchange_scale, self.rms_norm_eps = exchange_scale, rms_norm_eps
        self.max_position_embeddings, self.use_cache = max_position_embeddings, use_cache
        self.take_rope(kwargs, 10000.0)
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)


def neighbours(columns, rows):
    """Cells that touch cell e horizontally or vertically, for every e; no wrap-around."""
    near = [[] for _ in range(columns * rows)]
    for e in range(columns * rows):
        near[e] += [e + 1] if e % columns + 1 < columns else []
        near[e] += [e - 1] if e % columns else []
        near[e] += [n for n in (e + columns, e - columns) if 0 <= n < columns * rows]
    return near


class MeshBlock(nn.Module):
    def __init__(self, config):
        super().__init__()
        near = neighbours(*config.mesh_grid_size)
        self.near = near if config.neighbor_exchange else [[] for _ in near]
        self.k = min(config.routing_k, len(near)) if config.routing_k > 0 else len(near)
        self.normalise, self.scale = config.norm_topk_prob, config.exchange_scale
        self.gate = nn.Linear(config.hidden_size, len(near), bias=False)
        self.experts = nn.ModuleList(GatedMLP(config.hidden_size, config.expert_intermediate_size) for _ in near)
        self.exchange = nn.ModuleDict({f"{s}_{d}": nn.Linear(config.hidden_size, config.hidden_size, bias=False)
                                       for s, cells in enumerate(self.near) for d in cells})

    def forward(self, x):
        flat = x.flatten(0, -2)
        logits = self.gate(flat)
        weights, chosen = route(logits, self.k, self.normalise)
        weight = torch.zeros_like(logits).scatter_(1, chosen, weights.to(logits.dtype))
        on = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, chosen, True)
        out = torch.zeros_like(flat)
        for s, expert in enumerate(self.experts):
            token = on[:, s].nonzero().squeeze(1)
            y = expert(flat[token])
            out.index_add_(0, token, y * weight[token, s, None])
            for d in self.near[s]:  # what expert s says reaches expert d where both are chosen, weighted as d is
                both = on[token, d].nonzero().squeeze(1)
                message = self.exchange[f"{s}_{d}"](y[both]) * self.scale
                out.index_add_(0, token[both], message * weight[token[both], d, None])
        return out.view_as(x)


class MeshForCausalLM(DecoderForCausalLM):
    config_class = MeshConfig

    def block(self, config, layer):
        return MeshBlock(config)
