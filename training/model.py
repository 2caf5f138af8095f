"""The cross-encoder: MiniLM layers that start as a bi-encoder and learn to look across.

Every start is exact. The layers see query and passage as all-MiniLM-L6-v2 saw each alone (segments barely
attend to each other, passage positions start at one), so the cosine of the two means ranks like the
bi-encoder before the first step. Training then opens the gates between the segments, head by head, and a
small MLP whose last layer starts at zero. Overlap of words is counted from the ids, weighted by a learned
idf: the teacher contains BM25, and six small layers cannot count.
"""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from shape import ADAPTER, CLS, FEATURES, HEAD, HEADS, HIDDEN, INNER, SEP, VOCABULARY



def rounded_rows(table):
    """A table kept as int8 with one scale a row, and its value in float: the embeddings are frozen, and ship so."""
    scale = table.abs().amax(1, keepdim=True).clamp_min(1e-8) / 127
    return (table / scale).round().clamp(-127, 127).to(torch.int8), scale


class Layer(nn.Module):
    def __init__(self, inner=INNER, heads=HEADS):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(HIDDEN, 3 * heads * HEAD)
        self.out = nn.Linear(heads * HEAD, HIDDEN)
        self.norm1 = nn.LayerNorm(HIDDEN, eps=1e-12)
        self.up = nn.Linear(HIDDEN, inner)
        self.down = nn.Linear(inner, HIDDEN)
        self.norm2 = nn.LayerNorm(HIDDEN, eps=1e-12)
        # How far a head is closed to the other segment, in logits: [query to passage, passage to query].
        # A passage has ten times the tokens, so the same mass needs the larger number.
        self.gate = nn.Parameter(torch.tensor([[6.0], [2.0]]).repeat(1, heads))

    def forward(self, x, padding, query_to_passage, passage_to_query):
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, HEAD).permute(2, 0, 3, 1, 4)
        bias = padding
        if query_to_passage is not None:
            gate = self.gate.view(2, 1, self.heads, 1, 1)
            bias = padding - gate[0] * query_to_passage - gate[1] * passage_to_query
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        x = self.norm1(x + self.out(a.transpose(1, 2).reshape(b, n, self.heads * HEAD)))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class Embedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer('words', torch.zeros(VOCABULARY, HIDDEN, dtype=torch.int8))
        self.register_buffer('scales', torch.zeros(VOCABULARY, 1))
        self.positions = nn.Parameter(torch.zeros(512, HIDDEN))
        self.segment = nn.Parameter(torch.zeros(HIDDEN))
        self.norm = nn.LayerNorm(HIDDEN, eps=1e-12)

    def thaw(self):
        """Makes the table trainable."""
        self.table = nn.Parameter(self.words.float() * self.scales)

    def freeze(self):
        """Rounds a trained table to what ships."""
        self.words, self.scales = rounded_rows(self.table.data)
        del self.table

    def forward(self, ids, segment, positions):
        words = F.embedding(ids, self.table) if hasattr(self, 'table') else self.words[ids].float() * self.scales[ids]
        return words, self.norm(words + self.positions[positions] + segment[:, :, None] * self.segment)


class Overlap(nn.Module):
    """Shares of the query's weight found in the passage, by id and by nearness of the static word vectors."""

    def __init__(self):
        super().__init__()
        self.idf = nn.Parameter(torch.zeros(VOCABULARY, 1))
        self.near = nn.Parameter(torch.tensor([12.0, -7.0]))  # slope and offset: half at a cosine of 0.58

    def forward(self, ids, words, query, passage):
        weight = self.idf[ids] * query[:, :, None]
        total = weight.sum((1, 2))[:, None] + 1e-3
        length = passage.sum(1)[:, None, None] / 110
        same = (ids[:, :, None] == ids[:, None, :]).float()
        unit = words * torch.rsqrt(words.square().sum(-1, keepdim=True) + 1e-9)
        near = torch.sigmoid(torch.matmul(unit, unit.transpose(1, 2)) * self.near[0] + self.near[1])
        features = []
        for match in (same, near):
            count = torch.matmul(match, passage[:, :, None])
            saturated = count / (count + 0.5 + 0.7 * length)
            best = (match * passage[:, None, :]).amax(2, keepdim=True)
            for value in (saturated, best):
                features.append((value * weight).sum((1, 2))[:, None])
        found = torch.cat([f / total for f in features], 1)
        return torch.cat([found, features[0] / 30, features[2] / 30], 1), weight / total[:, :, None]


class Head(nn.Module):
    """The score from hidden states. An early exit's has an adapter: what it needs of a layer of its own, at a sixth of the cost."""

    def __init__(self, adapter=0):
        super().__init__()
        if adapter:
            self.up = nn.Linear(HIDDEN, adapter)
            self.down = nn.Linear(adapter, HIDDEN)
            nn.init.zeros_(self.down.weight)
            nn.init.zeros_(self.down.bias)
        self.cosine = nn.Parameter(torch.tensor(10.0))
        self.linear = nn.Linear(FEATURES, 1, bias=True)
        self.inner = nn.Linear(2 * HIDDEN + FEATURES, 256)
        self.outer = nn.Linear(256, 1, bias=False)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.linear.bias)
        self.linear.weight.data.copy_(torch.tensor([[1.0, 0.3, 0.5, 0.3, 0.3, 0.0, 1.0]]))

    def forward(self, x, query, passage, content, overlap, weight):
        def unit(v):
            return v * torch.rsqrt(v.square().sum(-1, keepdim=True) + 1e-9)
        if hasattr(self, 'up'):
            x = x + self.down(F.gelu(self.up(x)))
        u = unit(torch.matmul(query[:, None, :], x)[:, 0])
        v = unit(torch.matmul(passage[:, None, :], x)[:, 0])
        tokens = unit(x)
        # The best match of each word of the query (late interaction), weighted like the overlap.
        near = torch.matmul(tokens, tokens.transpose(1, 2)) * content[:, None, :]
        late = (near.amax(2, keepdim=True) * weight).sum((1, 2))[:, None]
        features = torch.cat([overlap, late], 1)
        inner = torch.tanh(self.inner(torch.cat([u * v * 20, (u - v).abs() * 10, features], 1)))
        score = self.cosine * (u * v).sum(1, keepdim=True) + self.linear(features) + self.outer(inner)
        return score[:, 0]


class CrossEncoder(nn.Module):
    def __init__(self, layers=6, exits=(2, 4, 6), inner=INNER, heads=HEADS):
        super().__init__()
        self.exits = exits
        self.embedding = Embedding()
        self.overlap = Overlap()
        self.layers = nn.ModuleList(Layer(inner, heads) for _ in range(layers))
        self.heads = nn.ModuleList(Head(0 if e == exits[-1] else ADAPTER) for e in exits)

    def forward(self, ids, mask, types):
        mask = mask.float()
        passage = types.float() * mask
        query = mask - passage
        n = ids.shape[1]
        index = torch.arange(n, device=ids.device)[None]
        length = query.sum(1, keepdim=True).long()
        words, x = self.embedding(ids, passage, index - types * mask.long() * (length - 1))
        special = ((ids == CLS) | (ids == SEP)).float()
        content_query, content = query * (1 - special), passage * (1 - special)
        overlap, weight = self.overlap(ids, words, content_query, content)
        padding = ((mask - 1) * 10000)[:, None, None, :]
        # The first token stays open to both segments, as each had one of its own.
        inside = query * (index > 0).float()
        query_to_passage = (query[:, :, None] * passage[:, None, :])[:, None]
        passage_to_query = (passage[:, :, None] * inside[:, None, :])[:, None]
        scores = []
        for i, layer in enumerate(self.layers):
            x = layer(x, padding, query_to_passage, passage_to_query)
            if i + 1 in self.exits:
                head = self.heads[self.exits.index(i + 1)]
                with torch.autocast(ids.device.type, enabled=False):
                    scores.append(head(x.float(), query, passage, content, overlap, weight))
        return scores


class BiEncoder(nn.Module):
    """Mean pooling over a few layers, normalised."""

    def __init__(self, layers=6, inner=INNER, heads=HEADS):
        super().__init__()
        self.embedding = Embedding()
        self.layers = nn.ModuleList(Layer(inner, heads) for _ in range(layers))

    def forward(self, ids, mask):
        mask = mask.float()
        index = torch.arange(ids.shape[1], device=ids.device)[None].expand_as(ids)
        _, x = self.embedding(ids, torch.zeros_like(mask), index)
        padding = ((mask - 1) * 10000)[:, None, None, :]
        for layer in self.layers:
            x = layer(x, padding, None, None)
        return F.normalize(torch.matmul(mask[:, None, :], x.float())[:, 0], dim=-1)


def start_from(model, weights, layers=None):
    """Copies all-MiniLM-L6-v2's weights (a Hugging Face state dict) into a model; `layers` names which ones."""
    e = model.embedding
    e.words, e.scales = rounded_rows(weights['embeddings.word_embeddings.weight'].float())
    e.positions.data = (weights['embeddings.position_embeddings.weight'] + weights['embeddings.token_type_embeddings.weight'][0]).float()
    e.norm.weight.data, e.norm.bias.data = weights['embeddings.LayerNorm.weight'].clone(), weights['embeddings.LayerNorm.bias'].clone()
    for layer, source in zip(model.layers, layers or range(len(model.layers))):
        def get(name):
            return weights[f'encoder.layer.{source}.{name}'].clone().float()
        for kind in ('weight', 'bias'):
            parts = [get(f'attention.self.{p}.{kind}') for p in ('query', 'key', 'value')]
            getattr(layer.qkv, kind).data = torch.cat(parts)
            for ours, theirs in (('out', 'attention.output.dense'), ('norm1', 'attention.output.LayerNorm'),
                                 ('up', 'intermediate.dense'), ('down', 'output.dense'), ('norm2', 'output.LayerNorm')):
                getattr(getattr(layer, ours), kind).data = get(f'{theirs}.{kind}')


def go_back(model, before, share):
    """Moves the layers by a share towards another model's: what was learned on one domain holds better on others so (WiSE-FT, Wortsman 2022)."""
    with torch.no_grad():
        for layer, old in zip(model.layers, before.layers):
            for (name, own), value in zip(layer.named_parameters(), old.parameters()):
                if name != 'gate':
                    own.lerp_(value, share)


def narrow(layer, inputs, contexts, inner, heads):
    """A copy of a layer with the heads and the `inner` neurons that contribute most.

    To texts whose tokens give the feed-forward's `inputs` and the heads' outputs `contexts`, both [tokens, HIDDEN].
    """
    with torch.no_grad():
        parts = contexts.view(-1, HEADS, HEAD)
        added = torch.einsum('thc,ohc->tho', parts[:2000], layer.out.weight.view(HIDDEN, HEADS, HEAD))
        kept_heads = added.norm(dim=2).mean(0).topk(heads).indices.sort().values
        contribution = F.gelu(layer.up(inputs)).abs().mean(0) * layer.down.weight.norm(dim=0)
        kept = contribution.topk(inner).indices.sort().values
        result = Layer(inner, heads)
        for name in ('norm1', 'norm2'):
            getattr(result, name).load_state_dict(getattr(layer, name).state_dict())
        result.gate.data = layer.gate[:, kept_heads].clone()
        result.qkv.weight.data = layer.qkv.weight.view(3, HEADS, HEAD, HIDDEN)[:, kept_heads].reshape(-1, HIDDEN)
        result.qkv.bias.data = layer.qkv.bias.view(3, HEADS, HEAD)[:, kept_heads].reshape(-1)
        result.out.weight.data = layer.out.weight.view(HIDDEN, HEADS, HEAD)[:, kept_heads].reshape(HIDDEN, -1)
        # What the other heads add on average is not lost.
        others = [h for h in range(HEADS) if h not in kept_heads.tolist()]
        result.out.bias.data = layer.out.bias + added[:, others].sum(1).mean(0)
        result.up.weight.data, result.up.bias.data = layer.up.weight[kept].clone(), layer.up.bias[kept].clone()
        result.down.weight.data, result.down.bias.data = layer.down.weight[:, kept].clone(), layer.down.bias.clone()
    return result


def idf_table(texts):
    """Inverse document frequencies of all tokens in `texts` (encode.Texts), [VOCABULARY, 1], 1 at most."""
    present = texts.ids.sort(1).values
    first = torch.cat([torch.ones_like(present[:, :1], dtype=torch.bool), present[:, 1:] != present[:, :-1]], 1) & (present > 0)
    counts = torch.bincount(present[first].long(), minlength=VOCABULARY).float().cpu()
    return torch.log(1 + (len(texts) - counts + 0.5) / (counts + 0.5))[:, None] * (1 / math.log(len(texts)))
