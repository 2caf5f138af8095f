"""What some peers make of the model before they run it, each in its own environment.

    python make_variants.py onnx FOLDER
    python make_variants.py openvino FOLDER TEXTS.json
"""
import json
import pathlib
import shutil
import sys

kind, folder = sys.argv[1], pathlib.Path(sys.argv[2])

from sentence_transformers import CrossEncoder  # noqa: E402

if kind == 'onnx':
    from sentence_transformers import export_dynamic_quantized_onnx_model
    model = CrossEncoder(str(folder), device='cpu', backend='onnx', model_kwargs={'file_name': 'onnx/model.onnx'})
    export_dynamic_quantized_onnx_model(model, 'avx512_vnni', str(folder))
    (folder / 'onnx' / 'model_qint8_avx512_vnni.onnx').rename(folder / 'onnx' / 'model_qint8.onnx')
    # Infinity takes the graph that it finds: a folder with this one alone.
    quantized = folder.with_name(f'{folder.name}-quantized')
    shutil.copytree(folder, quantized, dirs_exist_ok=True, ignore=shutil.ignore_patterns('onnx', 'openvino', '*.safetensors'))
    (quantized / 'onnx').mkdir(exist_ok=True)
    shutil.copy(folder / 'onnx' / 'model_qint8.onnx', quantized / 'onnx' / 'model_quantized.onnx')
else:
    import nncf
    import openvino
    (folder / 'openvino').mkdir(exist_ok=True)
    graph = openvino.convert_model(str(folder / 'onnx' / 'model.onnx'))
    openvino.save_model(graph, folder / 'openvino' / 'openvino_model.xml', compress_to_fp16=False)
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # Every third document of the lists: what a user would calibrate with is text like that which comes.
    pairs = [(one['query'], text) for one in json.load(open(sys.argv[3]))['lists'] for text in one['documents'][::3]]
    fed = [dict(tokenizer([query], [text], truncation=True, max_length=512, return_tensors='np')) for query, text in pairs]
    quantized = nncf.quantize(
        openvino.Core().read_model(folder / 'openvino' / 'openvino_model.xml'), nncf.Dataset(fed), subset_size=len(fed), model_type=nncf.ModelType.TRANSFORMER
    )
    openvino.save_model(quantized, folder / 'openvino' / 'openvino_model_qint8_quantized.xml', compress_to_fp16=False)
