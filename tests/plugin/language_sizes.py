"""Sizes of the tiny language models of the tests, and the families that are read."""

import transformers as hf

COMMON = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 0,
    "eos_token_id": 256,
    "pad_token_id": 256,
}
GPT2 = {"vocab_size": 300, "n_embd": 32, "n_layer": 3, "n_head": 4, "bos_token_id": 0, "eos_token_id": 256}
"""GPT-2 names them in its own way."""

HEAD = {**COMMON, "head_dim": 8}
MIXED = {"sliding_window": 3, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
DELTA = {"linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
RIGHT = {
    "llama": (hf.LlamaConfig, COMMON),
    "llama tied": (hf.LlamaConfig, {**COMMON, "tie_word_embeddings": True}),
    "qwen2": (hf.Qwen2Config, COMMON),
    "qwen2 window": (
        hf.Qwen2Config,
        {**COMMON, "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    ),
    "qwen3": (hf.Qwen3Config, HEAD),
    "qwen3 experts": (hf.Qwen3MoeConfig, {**HEAD, **EXPERTS}),
    "olmo2": (hf.Olmo2Config, COMMON),
    "olmo3": (hf.Olmo3Config, {**COMMON, **MIXED}),
    "smollm3": (hf.SmolLM3Config, COMMON),
    "mistral window": (hf.MistralConfig, {**COMMON, "sliding_window": 3}),
    "gemma3": (hf.Gemma3TextConfig, {**HEAD, **MIXED}),
    "phi3": (hf.Phi3Config, COMMON),
    "starcoder2": (hf.Starcoder2Config, COMMON),
    "gpt2": (hf.GPT2Config, GPT2),
    "gpt2 untied": (hf.GPT2Config, {**GPT2, "tie_word_embeddings": False}),
}
