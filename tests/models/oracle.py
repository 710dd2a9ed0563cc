"""The models once more, slowly: NumPy in float64, one example, one head, one position at a time.

Written from the papers' description of the transformer (pre-LN: Soltan et al. 2023, section 2.1;
post-LN and the MLM head: RoBERTa; fusion: a query weighs a token's states after every layer), not
from the Flax modules; it shares only parameter names.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from seqrecipes.models import ModelConfig

Params = Any


def gelu(x: np.ndarray) -> np.ndarray:
    """The exact GELU, x times the normal distribution function."""
    return x * np.vectorize(lambda v: 0.5 * math.erfc(-v / math.sqrt(2)))(x)


def layer_norm(x: np.ndarray, params: Params, epsilon: float) -> np.ndarray:
    """LayerNorm of a [..., D] array by its definition: centre, then the mean square."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + epsilon) * params["scale"] + params["bias"]


def attention(x: np.ndarray, memory: np.ndarray, allowed: np.ndarray, p: Params) -> np.ndarray:
    """x [T, D] attends to memory [S, D] where allowed [T, S].

    A memory [L, S, D] is mixed anew for every head and t, by the products of query and keys.
    """
    result = np.tile(p["output"]["bias"], (len(x), 1))
    for head in range(p["query"]["kernel"].shape[1]):

        def project(name: str, states: np.ndarray, head: int = head) -> np.ndarray:
            return states @ p[name]["kernel"][:, head] + p[name]["bias"][head]

        for t, query in enumerate(project("query", x)):
            query = query / math.sqrt(len(query))
            read = memory
            if memory.ndim == 3:
                read = mixture(memory, project("key", memory) @ query)
            read = read[np.flatnonzero(allowed[t])]
            scores = project("key", read) @ query
            weights = np.exp(scores - scores.max())
            mixed = weights @ project("value", read) / weights.sum()
            result[t] += mixed @ p["output"]["kernel"][head]
    return result


def mixture(states: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """States [L, S, D] to [S, D]: of every token the mean, weighted by exp(scores [L, S])."""
    result = np.zeros(states.shape[1:])
    for token in range(states.shape[1]):
        powers = [math.exp(score - scores[:, token].max()) for score in scores[:, token]]
        for power, state in zip(powers, states[:, token], strict=True):
            result[token] += power / sum(powers) * state
    return result


def fuse(states: np.ndarray, query: np.ndarray) -> np.ndarray:
    """States [L, S, D] to [S, D] by one query."""
    return mixture(states, states @ query / math.sqrt(len(query)))


def stack(
    x: np.ndarray,
    allowed: np.ndarray,
    memory: np.ndarray | None,
    memory_allowed: np.ndarray | None,
    params: Params,
    config: ModelConfig,
) -> np.ndarray:
    """States after every layer [L, T, D], each put through the final LayerNorm if pre-LN.

    The memory is [S, D], or the states of all encoder layers if the layers here mix them.
    """

    def pick(node: Params, index: int) -> Params:
        if isinstance(node, dict):
            return {name: pick(child, index) for name, child in node.items()}
        return node[index]

    def feed_forward(y: np.ndarray, p: Params) -> np.ndarray:
        inner = gelu(y @ p["input"]["kernel"] + p["input"]["bias"])
        return inner @ p["output"]["kernel"] + p["output"]["bias"]

    states = []
    for index in range(len(params["layers"]["mlp"]["input"]["bias"])):
        p = pick(params["layers"], index)
        sublayers = [
            ("self_attention", lambda y, p=p: attention(y, y, allowed, p["self_attention"])),
            ("mlp", lambda y, p=p: feed_forward(y, p["mlp"])),
        ]
        if memory is not None:
            assert memory_allowed is not None
            read = fuse(memory, p["fusion"]["query"]) if "fusion" in p else memory
            sublayers.insert(
                1,
                (
                    "cross_attention",
                    lambda y, p=p, read=read: attention(
                        y, read, memory_allowed, p["cross_attention"]
                    ),
                ),
            )
        for name, function in sublayers:
            norm = p[f"{name}_norm"]
            if config.norm == "pre":
                x = x + function(layer_norm(x, norm, config.norm_epsilon))
            else:
                x = layer_norm(x + function(x), norm, config.norm_epsilon)
        if config.norm == "pre":
            states.append(layer_norm(x, params["final_norm"], config.norm_epsilon))
        else:
            states.append(x)
    return np.stack(states)


def embed(tokens: np.ndarray, params: Params, side: str, config: ModelConfig) -> np.ndarray:
    """Token and position embeddings of one sequence."""
    own = params[side]["embedding"]
    x = params["token_embedding"]["embedding"][tokens]
    x = x + own["position"]["embedding"][: len(tokens)]
    return layer_norm(x, own["norm"], config.norm_epsilon) if config.embedding_norm else x


def encode(tokens: np.ndarray, params: Params, config: ModelConfig) -> np.ndarray:
    """States [L, S, D] of one source after every layer."""
    allowed = np.tile(tokens != config.pad_id, (len(tokens), 1))
    x = embed(tokens, params, "encoder", config)
    return stack(x, allowed, None, None, params["encoder"]["stack"], config)


def mlm_logits(batch: dict[str, np.ndarray], params: Params, config: ModelConfig) -> np.ndarray:
    """Logits [B, P, V] at the masked positions."""
    head = params["mlm_head"]
    table = (params["token_embedding"] if config.tie_head else head["projection"])["embedding"]
    result = []
    for tokens, positions in zip(
        batch["encoder_input_tokens"], batch["masked_positions"], strict=True
    ):
        h = encode(tokens, params, config)[-1][positions]
        h = gelu(h @ head["dense"]["kernel"] + head["dense"]["bias"])
        result.append(layer_norm(h, head["norm"], config.norm_epsilon) @ table.T + head["bias"])
    return np.stack(result)


def seq2seq_logits(batch: dict[str, np.ndarray], params: Params, config: ModelConfig) -> np.ndarray:
    """Logits [B, T, V] of every decoder position."""
    table = params["token_embedding" if config.tie_head else "lm_head"]["embedding"]
    result = []
    for source, target in zip(
        batch["encoder_input_tokens"], batch["decoder_input_tokens"], strict=True
    ):
        length = len(target)
        past = np.arange(length)[None, :] <= np.arange(length)[:, None]
        real = np.tile(source != config.pad_id, (length, 1))
        x = embed(target, params, "decoder", config)
        memory = encode(source, params, config)
        if config.attention_fusion == "none":
            memory = memory[-1]
        elif config.attention_fusion == "shared":
            memory = fuse(memory, params["decoder"]["fusion"]["query"])
        x = stack(x, past, memory, real, params["decoder"]["stack"], config)[-1]
        result.append(x @ table.T)
    return np.stack(result)
