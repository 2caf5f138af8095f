"""What sentence-transformers' CrossEncoder makes of pairs: the reference that `rankmill models add` compares a model with.

    pip install -r export-requirements.txt
    echo '[["a query", "a document"]]' | python reference.py FOLDER

A causal model of Qwen3-Reranker's kind, whose own template carries no pair, is asked as its model card does.

Pairs come as JSON on standard input; a line of JSON on standard output has, for each, the logits of all labels and the scores
(what `predict` gives). A fault ends with 3, a missing package with 4, each with one line on standard error.
"""
import json
import os
import sys
import warnings

os.environ |= {'HF_HUB_OFFLINE': '1', 'TQDM_DISABLE': '1', 'TRANSFORMERS_VERBOSITY': 'error', 'TOKENIZERS_PARALLELISM': 'false'}
warnings.filterwarnings('ignore')

try:
    import sentence_transformers
    import torch
    import transformers
    from sentence_transformers import CrossEncoder
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
except ImportError as missing:
    sys.exit(print(f'{sys.executable}: {missing}', file=sys.stderr) or 4)

BATCH = 8


def rows(values, count):
    return [[float(value) for value in row] for row in values.reshape(count, -1)]


# huggingface.co/Qwen/Qwen3-Reranker-0.6B, README.md
PREFIX = '<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
SUFFIX = '<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n'
INSTRUCTION = 'Given a web search query, retrieve relevant passages that answer the query'
MAX_LENGTH = 8192


def by_card(folder, pairs):
    """The logits, by the code of the card; None for other models."""
    local = {'local_files_only': True, 'trust_remote_code': False}
    config = AutoConfig.from_pretrained(folder, **local)
    if config.model_type != 'qwen3' or os.path.exists(os.path.join(folder, 'modules.json')):
        return None
    is_causal = (config.architectures or [''])[0].endswith('ForCausalLM')
    kind = AutoModelForCausalLM if is_causal else AutoModelForSequenceClassification
    model = kind.from_pretrained(folder, dtype=torch.float32, **local).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, **local)
    prefix, suffix = (tokenizer.encode(text, add_special_tokens=False) for text in (PREFIX, SUFFIX))
    no, yes = (tokenizer.convert_tokens_to_ids(word) for word in ('no', 'yes'))
    logits = []
    for query, document in pairs:
        text = f'<Instruct>: {INSTRUCTION}\n<Query>: {query}\n<Document>: {document}'
        most = min(MAX_LENGTH, tokenizer.model_max_length, config.max_position_embeddings) - len(prefix) - len(suffix)
        ids = prefix + tokenizer(text, truncation=True, max_length=most, add_special_tokens=False)['input_ids'] + suffix
        with torch.no_grad():
            given = model(torch.tensor([ids])).logits
        logits.append(float(given[0, -1, yes] - given[0, -1, no]) if is_causal else float(given[0, 0]))
    return logits


def by_cross_encoder(folder, pairs):
    model = CrossEncoder(folder, device='cpu', local_files_only=True, trust_remote_code=False, model_kwargs={'dtype': torch.float32})
    predict = lambda **more: rows(model.predict(pairs, batch_size=BATCH, show_progress_bar=False, **more), len(pairs))  # noqa: E731
    return predict(activation_fn=torch.nn.Identity()), predict(), type(model.activation_fn).__name__


def asked(folder, pairs):
    """Logits of all labels and scores of each pair, and the activation."""
    try:
        return by_cross_encoder(folder, pairs)
    except ValueError as fault:
        logits = by_card(folder, pairs) if 'chat template' in str(fault) else None
        if logits is None:
            raise
        scores = torch.sigmoid(torch.tensor(logits, dtype=torch.float64)).tolist()
        return [[logit] for logit in logits], [[score] for score in scores], 'Sigmoid'


def main():
    pairs = [tuple(pair) for pair in json.load(sys.stdin)]
    try:
        logits, scores, activation = asked(sys.argv[1], pairs)
    except Exception as fault:
        lines = str(fault).strip().splitlines() or ['']
        sys.exit(print(f'{sys.argv[1]}: {type(fault).__name__}: {lines[0]}', file=sys.stderr) or 3)
    versions = {'sentence-transformers': sentence_transformers.__version__, 'transformers': transformers.__version__, 'torch': torch.__version__}
    print(json.dumps({'logits': logits, 'scores': scores, 'activation': activation, 'versions': versions}))


if __name__ == '__main__':
    main()
