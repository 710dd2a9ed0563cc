"""The same models in transformers, trained as its users do: SDPA, fused AdamW, autocast, clipping.

Both classes compute what ours do: pre-LN, exact GELU, learned positions, LayerNorm on embeddings.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import transformers
from torch.nn import functional

from benchmarks.step.cases import BOS, EOS, PAD, Job, synthetic
from benchmarks.step.programs import Program

# What transformers' losses leave out.
_IGNORED = -100
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def program(job: Job, *, compiled: bool) -> Program:
    """The model on the GPU, if there is one, with an optimizer and a batch."""
    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if place.type == "cpu":
        torch.set_num_threads(_cores())
    torch.manual_seed(0)
    built = model(job).to(place).train()
    trained = [p for p in built.parameters() if p.requires_grad]
    # As ours: AdamW's constants, and clipping at 1, which is transformers' default too.
    adamw = torch.optim.AdamW(trained, lr=1.5e-4, betas=(0.9, 0.99), weight_decay=0.1, fused=True)
    batch = {name: torch.from_numpy(x).long().to(place) for name, x in inputs(job).items()}
    # Parameters stay float32; matrix products are computed in the compute type.
    dtype = _DTYPES[job.model["dtype"]]
    narrow = torch.autocast(place.type, dtype, enabled=dtype is not torch.float32)
    forward = torch.compile(built) if compiled else built
    with torch.no_grad(), narrow, attentions_seen() as seen:
        built(**batch)

    def step() -> Any:
        with narrow:
            loss = forward(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        adamw.step()
        adamw.zero_grad()
        done = torch.cuda.Event() if place.type == "cuda" else None
        if done:
            done.record()
        return done, loss.detach()

    def wait(handle: Any) -> None:
        if handle[0]:
            handle[0].synchronize()

    kernels = ", ".join(sorted(set(seen))) or "none"
    return Program(
        step=step,
        wait=wait,
        loss=lambda handle: handle[1].item(),
        parameters=sum(p.numel() for p in built.parameters()),
        trained=sum(p.numel() for p in trained),
        device=torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu",
        product=lambda width: _product(width, place),
        device_memory=lambda: torch.cuda.max_memory_allocated() if place.type == "cuda" else None,
        remark=f"{type(built).__name__}, {job.model['dtype']}, scaled_dot_product_attention in "
        f"{len(seen)} of {_attentions(job)} attentions ({kernels})",
    )


def model(job: Job) -> Any:
    """The class of transformers with these dimensions, with random parameters."""
    m = job.model
    if not job.seq2seq:
        config = transformers.RobertaPreLayerNormConfig(
            vocab_size=m["vocab_size"],
            hidden_size=m["hidden_size"],
            num_hidden_layers=m["encoder_layers"],
            num_attention_heads=m["num_heads"],
            intermediate_size=m["mlp_size"],
            hidden_dropout_prob=m["dropout"],
            attention_probs_dropout_prob=m["attention_dropout"],
            # Its positions are counted from the padding's id on.
            max_position_embeddings=m["max_positions"] + PAD + 1,
            type_vocab_size=1,
            layer_norm_eps=m["norm_epsilon"],
            pad_token_id=PAD,
            attn_implementation="sdpa",
        )
        return transformers.RobertaPreLayerNormForMaskedLM(config)
    seq2seq = transformers.MBartForConditionalGeneration(
        transformers.MBartConfig(
            vocab_size=m["vocab_size"],
            d_model=m["hidden_size"],
            encoder_layers=m["encoder_layers"],
            decoder_layers=m["decoder_layers"],
            encoder_attention_heads=m["num_heads"],
            decoder_attention_heads=m["num_heads"],
            encoder_ffn_dim=m["mlp_size"],
            decoder_ffn_dim=m["mlp_size"],
            dropout=m["dropout"],
            attention_dropout=m["attention_dropout"],
            activation_function="gelu",
            max_position_embeddings=m["max_positions"],
            tie_word_embeddings=m["tie_head"],
            use_cache=False,
            pad_token_id=PAD,
            bos_token_id=BOS,
            eos_token_id=EOS,
            attn_implementation="sdpa",
        )
    )
    body = seq2seq.model
    # Untied means all three tables to transformers, the head alone to us.
    body.encoder.embed_tokens.weight = body.decoder.embed_tokens.weight = body.shared.weight
    if job.frozen:
        body.encoder.requires_grad_(False)
    return seq2seq


def inputs(job: Job) -> dict[str, np.ndarray]:
    """The same batch under transformers' names."""
    batch = synthetic(job)
    tokens = batch["encoder_input_tokens"]
    both = {"input_ids": tokens, "attention_mask": (tokens != PAD).astype(np.int32)}
    if job.seq2seq:
        return both | {
            "decoder_input_ids": batch["decoder_input_tokens"],
            "labels": batch["decoder_target_tokens"],
        }
    labels = np.full_like(tokens, _IGNORED)
    rows, columns = np.nonzero(batch["masked_targets"] != PAD)
    labels[rows, batch["masked_positions"][rows, columns]] = batch["masked_targets"][rows, columns]
    return both | {"labels": labels}


@contextlib.contextmanager
def attentions_seen() -> Iterator[list[str]]:
    """The kernel that torch chooses at each call of its scaled_dot_product_attention."""
    seen: list[str] = []
    original = functional.scaled_dot_product_attention

    def counted(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        choice = torch._fused_sdp_choice(query, key, value, *args, **kwargs)
        seen.append(torch.nn.attention.SDPBackend(choice).name.lower())
        return original(query, key, value, *args, **kwargs)

    functional.scaled_dot_product_attention = counted
    try:
        yield seen
    finally:
        functional.scaled_dot_product_attention = original


def _attentions(job: Job) -> int:
    return job.model["encoder_layers"] + 2 * job.model["decoder_layers"]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _product(width: int, place: torch.device) -> Callable[[], None]:
    gpu = place.type == "cuda"
    x = torch.ones(width, width, dtype=torch.bfloat16 if gpu else torch.float32, device=place)

    def multiply() -> None:
        torch.matmul(x, x)
        if gpu:
            torch.cuda.synchronize()

    return multiply
