"""Models of usual shapes with random weights, as graphs for Rankmill and as folders for sentence-transformers: speed needs no more.

    python3 bench/gpu-models.py FOLDER [minilm] [base] [causal]

minilm: BERT of 6 layers of 384; base: BERT of 12 layers of 768; causal: Qwen3 in the shape of the 0.6B one, without its large
table of words; tiny: for trying this script. Each in fp32 and fp16. Needs torch, transformers, onnx; the causal one also
sentence-transformers and onnxruntime.
"""
import json
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent.parent
TOKENIZER = HERE / 'models/rankmill-nano'
BERTS = {'tiny': (2, 64, 2, 128), 'minilm': (6, 384, 12, 1536), 'base': (12, 768, 12, 3072)}
QWEN3 = {'causal': '1024,28,16,8,128,3072', 'tiny-causal': '64,2,4,2,16,128'}


def run(*command):
    subprocess.run([sys.executable, *map(str, command)], check=True, stdout=subprocess.DEVNULL)


def bert(folder, layers, hidden, heads, inner):
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(20)
    config = BertConfig(num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=heads, intermediate_size=inner, num_labels=1)
    BertForSequenceClassification(config).save_pretrained(folder)
    for name in ('tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json'):
        shutil.copy(TOKENIZER / name, folder / name)
    # An identity, as sentence-transformers reads it: the sigmoid would squeeze what is to be compared.
    file = folder / 'config.json'
    config = json.loads(file.read_text())
    config['sentence_transformers'] = {'activation_fn': 'torch.nn.modules.linear.Identity'}
    file.write_text(json.dumps(config, indent=2))
    (folder / 'onnx').mkdir(exist_ok=True)
    run(HERE / 'training/export.py', folder, folder / 'onnx/model.onnx')


def main():
    target = pathlib.Path(sys.argv[1])
    for name in sys.argv[2:] or ['minilm', 'base', 'causal']:
        folder = target / name
        if (folder / 'done').exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        try:
            if name in BERTS:
                bert(folder, *BERTS[name])
            else:
                run(HERE / 'test/fixtures/models/causal/generate.py', '--large', folder, QWEN3[name])
            run(HERE / 'training/quantize.py', folder / 'onnx/model.onnx', folder / 'onnx/model_fp16.onnx', '--dtype', 'fp16')
        except Exception as fault:  # the other shapes are of use without this one
            print(f'{name}: not made: {fault}', file=sys.stderr, flush=True)
            continue
        (folder / 'done').touch()
        print(f'{name}: {sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6:.0f} MB', flush=True)


if __name__ == '__main__':
    main()
