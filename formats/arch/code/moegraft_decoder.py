"""The decoder that the custom architectures written by moegraft share: RMSNorm, grouped-query attention with rotary
positions (half-split), residuals, a head that may be the embedding's. A family adds its configuration and its
feed-forward block. Loaded by transformers (4.51 and 5) with trust_remote_code=True; needs nothing but torch."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

# The field that carries the cache from one call to the next was renamed in the course of transformers 5.
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


class DecoderConfig(PretrainedConfig):
    """Rotary positions are told as transformers 4 does (rope_theta, rope_scaling) or 5 (rope_parameters)."""

    keys_to_ignore_at_inference = ["past_key_values", "cache"]

    def take_rope(self, kwargs, default_theta):
        """Read the spelling that is there into `rotary`; both stay in the file as they were."""
        told = kwargs.get("rope_parameters") or {}
        scaling = kwargs.get("rope_scaling") or told
        theta = told.get("rope_theta", kwargs.pop("rope_theta", default_theta))
        self.rope_parameters = {**scaling, "rope_theta": theta}
        self.rope_parameters.setdefault("rope_type", self.rope_parameters.pop("type", "default"))
        kwargs.pop("rope_parameters", None)
        kwargs.pop("rope_scaling", None)
        if self.rope_parameters["rope_type"] not in ("default", "linear", "llama3"):
            raise ValueError(f"rotary scaling '{self.rope_parameters['rope_type']}' is not built here")


def rotary_frequencies(config, device):
    """Radians per position, one for each pair of a head: float32 [head_dim / 2]."""
    rope, dim = config.rope_parameters, config.head_dim
    freq = rope["rope_theta"] ** (-torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim)
    if rope["rope_type"] == "linear":
        return freq / rope["factor"]
    if rope["rope_type"] == "llama3":
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        turns = rope["original_max_position_embeddings"] * freq / (2 * math.pi)
        keep = ((turns - low) / (high - low)).clamp(0, 1)
        return keep * freq + (1 - keep) * freq / rope["factor"]
    return freq


def rotate(x, cos, sin):
    """x [B, H, T, D]; elements d and d + D/2 are a pair."""
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class GatedMLP(nn.Module):
    def __init__(self, hidden, inner):
        super().__init__()
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def route(logits, k, normalise):
    """Probabilities in float32 over all experts; the k largest, by choice divided by their sum: weights, experts."""
    weights, chosen = logits.float().softmax(-1).topk(k, dim=-1)
    return (weights / weights.sum(-1, keepdim=True) if normalise else weights), chosen


class Attention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.layer, self.heads, self.kv_heads = layer, config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        bias = getattr(config, "attention_bias", False)
        self.q_proj = nn.Linear(config.hidden_size, self.heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(config.hidden_size, self.kv_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(config.hidden_size, self.kv_heads * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(self.heads * self.head_dim, config.hidden_size, bias=False)
        self.normed = getattr(config, "qk_norm", False)
        if self.normed:
            self.q_norm = RMSNorm(self.head_dim, config.rms_norm_eps)
            self.k_norm = RMSNorm(self.head_dim, config.rms_norm_eps)

    def forward(self, x, rotary, mask, cache):
        q, k, v = (p(x).unflatten(-1, (-1, self.head_dim)) for p in (self.q_proj, self.k_proj, self.v_proj))
        if self.normed:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = rotate(q.transpose(1, 2), *rotary), rotate(k.transpose(1, 2), *rotary), v.transpose(1, 2)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        share = self.heads // self.kv_heads
        k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.o_proj(y.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, config, layer, mlp):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = mlp

    def forward(self, x, rotary, mask, cache):
        x = x + self.self_attn(self.input_layernorm(x), rotary, mask, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Trunk(nn.Module):
    def __init__(self, config, block):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, i, block(config, i)) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


def visible(attention_mask, past, x):
    """Which keys every query sees, bool [B, 1, T, past + T]: those at or before it that are no padding. A query that
    would see none (padding itself) sees its own key, so that no softmax runs over nothing."""
    batch, t = x.shape[:2]
    query = torch.arange(past, past + t, device=x.device)[:, None]
    key = torch.arange(past + t, device=x.device)[None, :]
    seen = (key <= query)[None, None]
    if attention_mask is not None:
        seen = seen & attention_mask[:, None, None, : past + t].bool()
    return (seen | (key == query)).expand(batch, 1, t, past + t)


class DecoderForCausalLM(PreTrainedModel, GenerationMixin):
    """A family's class sets config_class and block(config, layer), the feed-forward module of a layer."""

    base_model_prefix = "model"
    _no_split_modules = ["Layer"]
    _skip_keys_device_placement = ["cache", "past_key_values"]
    _supports_cache_class = True
    _supports_sdpa = True

    def __init__(self, config):
        super().__init__(config)
        self.model = Trunk(config, self.block)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def set_input_embeddings(self, value):
        self.model.embed_tokens = value

    def get_output_embeddings(self):
        return None if self.config.tie_word_embeddings else self.lm_head

    def set_output_embeddings(self, value):
        self.lm_head = value

    def positions(self, attention_mask, past, x):
        if attention_mask is not None and attention_mask.dim() == 2:  # padding on the left counts for nothing
            return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, past : past + x.shape[1]]
        return torch.arange(past, past + x.shape[1], device=x.device)[None]

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, cache=None,
                inputs_embeds=None, labels=None, use_cache=None, output_hidden_states=None, logits_to_keep=0,
                return_dict=None, **kwargs):
        cache = past_key_values if cache is None else cache
        if cache is None and (self.config.use_cache if use_cache is None else use_cache):
            cache = DynamicCache()
        x = self.model.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        past = cache.get_seq_length() if cache is not None else 0
        if position_ids is None:
            position_ids = self.positions(attention_mask, past, x)
        mask = attention_mask
        if mask is None or mask.dim() != 4:
            mask = visible(attention_mask, past, x)
        angle = position_ids[:, None, :, None].float() * rotary_frequencies(self.config, x.device)
        rotary = [f(angle).repeat(1, 1, 1, 2).to(x.dtype) for f in (torch.cos, torch.sin)]
        hidden = [x] if output_hidden_states else None
        for layer in self.model.layers:
            x = layer(x, rotary, mask, cache)
            if hidden:
                hidden.append(x)
        x = self.model.norm(x)
        if hidden:
            hidden[-1] = x  # the last is after the norm, as in the models of transformers
        rows = x[:, -logits_to_keep:] if isinstance(logits_to_keep, int) else x[:, logits_to_keep]
        logits = F.linear(rows, self.model.embed_tokens.weight) if self.config.tie_word_embeddings else self.lm_head(rows)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        out = CausalLMOutputWithPast(loss=loss, logits=logits, hidden_states=tuple(hidden) if hidden else None,
                                     **{CACHE: cache})
        return out if return_dict is None or return_dict else out.to_tuple()
