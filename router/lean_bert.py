"""BERT's forward pass for short texts: what a sentence-transformers model computes, in a fraction of the time.

For a short text in bfloat16 much of that library's time are wrappers, and laying the weights out for the processor's
matrix units at every call. Here they are laid out once, by oneDNN. The texts of a batch stand one behind the other
without padding, so a text's vector depends on its company by rounding alone.

Only plain BERT encoders are taken (MiniLM, BGE, GTE, E5 and others of that architecture), and only after their vectors
were compared with the library's own; everything else is `Unsuitable` and runs as before.
"""

from __future__ import annotations

import importlib
from array import array
from typing import Any, Literal, NamedTuple

PROBES = (
    "",
    "Hello!",
    "What was the profit of the second quarter, and why did it fall by 3.5 %?",
    "naïve façade, 今日は, Привет, 🎉",
    "def solve(x):\n    return [y ** 2 for y in x if y > 0]  # squares\n" * 4,
    "A long text that is cut where the window of the model ends. " * 60,
)
LEAST_COSINE = 0.999
POOLING = ("mean", "cls")
SHORT_TOKENS = 256


class Unsuitable(Exception):
    """The model cannot be computed here; the message says why."""


class _Linear(NamedTuple):
    """Weights as oneDNN wants them, in the precision of the products."""

    weight: Any
    bias: Any


class _Norm(NamedTuple):
    weight: Any
    bias: Any
    epsilon: float


class _Layer(NamedTuple):
    qkv: _Linear
    mixed: _Linear
    mixed_norm: _Norm
    up: _Linear
    down: _Linear
    down_norm: _Norm


class LeanBert:
    """Unit-length embeddings; products in `precision`, sums, norms and pooling in float32. Keeps no plain copy."""

    def __init__(self, model: Any, precision: Literal["float32", "bfloat16"]) -> None:
        """Args: model: a `SentenceTransformer` in float32. Raises: Unsuitable."""
        if (reason := _why_not(model)) is not None:
            raise Unsuitable(reason)
        self._torch: Any = importlib.import_module("torch")
        self._dtype = getattr(self._torch, precision)
        bert = model[0].auto_model
        self._heads: int = bert.config.num_attention_heads
        self._pools_mean = model[1].pooling_mode == "mean"
        self._tokenizer = _tokenizer_of(model)
        embeddings = bert.embeddings
        try:
            with self._torch.inference_mode():
                self._words = embeddings.word_embeddings.weight.detach()
                self._places = embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]
                self._first_norm = self._norm(embeddings.LayerNorm)
                self._layers = [self._packed(layer) for layer in bert.encoder.layer]
            cosine = self._least_cosine(model)
        except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError) as exc:
            # oneDNN's operators are not part of torch's public interface, nor is a layer's structure of transformers'
            raise Unsuitable(f"this torch or processor cannot compute it ({exc})") from exc
        if not cosine >= LEAST_COSINE:
            raise Unsuitable(f"its embeddings would have a cosine of {cosine:.4f} with those of sentence-transformers")

    def __call__(self, texts: list[str]) -> list[array[float]]:
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]
        with self._torch.inference_mode():
            matrix = self._forward(ids)
        return [array("f", row.tobytes()) for row in matrix.numpy()]

    def _forward(self, ids: list[list[int]]) -> Any:
        """[texts, width], float32, from the token ids of each text."""
        torch, functional = self._torch, self._torch.nn.functional
        spans: list[tuple[int, int]] = []
        for each in ids:
            start = spans[-1][1] if spans else 0
            spans.append((start, start + len(each)))
        filling = [0] * (padded(spans[-1][1]) - spans[-1][1])
        words = torch.tensor([token for each in ids for token in each] + filling)
        places = torch.tensor([place for each in ids for place in range(len(each))] + filling)
        x = self._normed(functional.embedding(words, self._words) + self._places[places], self._first_norm)
        for layer in self._layers:
            mixed = self._attention(self._product(x, layer.qkv), spans)
            x = self._normed(self._product(mixed, layer.mixed) + x, layer.mixed_norm)
            wide = self._product(x, layer.up, "gelu")
            x = self._normed(self._product(wide, layer.down) + x, layer.down_norm)
        pooled = [x[start:end].mean(0) if self._pools_mean else x[start] for start, end in spans]
        return functional.normalize(torch.stack(pooled), dim=1)

    def _product(self, x: Any, linear: _Linear, then: Literal["none", "gelu"] = "none") -> Any:
        exactly = "none" if then == "gelu" else ""  # not the approximation by tanh
        return self._torch.ops.mkldnn._linear_pointwise(
            x.to(self._dtype), linear.weight, linear.bias, then, [], exactly
        )

    def _normed(self, x: Any, norm: _Norm) -> Any:
        return self._torch.nn.functional.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.epsilon)

    def _attention(self, qkv: Any, spans: list[tuple[int, int]]) -> Any:
        """[tokens, width] from [tokens, 3 x width]; every text sees itself only, the filling sees nothing."""
        tokens, columns = qkv.shape
        parts = qkv.view(tokens, 3, self._heads, -1)
        mixed = qkv.new_zeros(tokens, self._heads, columns // 3 // self._heads)
        for start, end in spans:
            query, key, value = parts[start:end].permute(1, 2, 0, 3).unsqueeze(1)
            seen = self._torch.nn.functional.scaled_dot_product_attention(query, key, value)
            mixed[start:end] = seen[0].transpose(0, 1)
        return mixed.view(tokens, -1)

    def _packed(self, layer: Any) -> _Layer:
        own, mixed = layer.attention.self, layer.attention.output
        return _Layer(
            qkv=self._linear(own.query, own.key, own.value),
            mixed=self._linear(mixed.dense),
            mixed_norm=self._norm(mixed.LayerNorm),
            up=self._linear(layer.intermediate.dense),
            down=self._linear(layer.output.dense),
            down_norm=self._norm(layer.output.LayerNorm),
        )

    def _linear(self, *modules: Any) -> _Linear:
        weight = self._torch.cat([module.weight for module in modules]).to(self._dtype)
        bias = self._torch.cat([module.bias for module in modules]).to(self._dtype)
        return _Linear(self._torch.ops.mkldnn._reorder_linear_weight(weight, 32), bias)

    def _norm(self, module: Any) -> _Norm:
        return _Norm(module.weight.detach(), module.bias.detach(), module.eps)

    def _least_cosine(self, model: Any) -> float:
        theirs = model.encode(list(PROBES), convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False)
        ours = self._torch.tensor([list(vector) for vector in self(list(PROBES))])
        return float((ours * theirs).sum(1).min())


def padded(tokens: int) -> int:
    """Tokens with the filling: oneDNN compiles code for each number of rows, which takes longer than the product."""
    step = 8 if tokens <= SHORT_TOKENS else 64
    return -(-tokens // step) * step


def _why_not(model: Any) -> str | None:
    """What is not as `LeanBert` computes it; None when all of it is."""
    names = [type(module).__name__ for module in model]
    if names not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        return f"it consists of {', '.join(names)}"
    bert, pooling = model[0].auto_model, model[1].pooling_mode
    if type(bert).__name__ != "BertModel":  # other configurations lack what is asked below
        return f"it is a {type(bert).__name__}"
    positions = getattr(bert.config, "position_embedding_type", "absolute")
    checks = (
        (not bert.config.is_decoder, "it is a decoder"),
        (bert.config.hidden_act == "gelu", f"its activation is {bert.config.hidden_act}"),
        (positions == "absolute", f"its positions are {positions}"),
        (pooling in POOLING, f"it pools by {pooling}"),
        (model.default_prompt_name is None, "it has a default prompt"),
        (model.truncate_dim is None, "its embeddings are cut"),
        (model.max_seq_length is not None, "it has no window"),
        (hasattr(model.tokenizer, "backend_tokenizer"), "its tokenizer is written in Python"),
    )
    return next((reason for holds, reason in checks if not holds), None)


def _tokenizer_of(model: Any) -> Any:
    """A copy: the model's own changes its padding and truncation with every call."""
    own = model.tokenizer.backend_tokenizer
    tokenizer = type(own).from_str(own.to_str())
    tokenizer.enable_truncation(model.max_seq_length)
    tokenizer.no_padding()
    return tokenizer
