"""One peer in a process of its own: loads the model, then scores the same pairs whenever it is told to.

    python peer.py PEER FOLDER THREADS          a line of JSON when it is ready, {"seconds", "scores"} for each line that it reads
    python peer.py PEER FOLDER THREADS PORT     the same library behind POST /rerank of FastAPI, as one would write it oneself

A line is [{"query": …, "documents": [...]}, …]. Each peer is used as its own documentation shows for many lists, its batch size
included, with as many threads as the others.
"""
import json
import os
import sys
import threading
import time

name, folder, threads, ports = sys.argv[1], sys.argv[2], int(sys.argv[3]), [int(port) for port in sys.argv[4:]]
for variable in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'RAYON_NUM_THREADS'):
    os.environ[variable] = str(threads)
os.environ |= {'HF_HUB_OFFLINE': '1', 'TRANSFORMERS_OFFLINE': '1', 'TOKENIZERS_PARALLELISM': 'true', 'TQDM_DISABLE': '1', 'DO_NOT_TRACK': '1'}
# What libraries print must not stand between the lines of JSON.
out, sys.stdout = sys.stdout, sys.stderr


def ort_options():
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return options


def sentence_transformers(backend, **settings):
    from sentence_transformers import CrossEncoder
    if backend != 'openvino':
        import torch
        torch.set_num_threads(threads)
    model = CrossEncoder(folder, device='cpu', backend=backend, model_kwargs=settings or None)
    return lambda lists: [score for query, documents in lists for score in model.predict([(query, text) for text in documents], show_progress_bar=False)]


def onnx_settings(file):
    return {'file_name': f'onnx/{file}', 'provider': 'CPUExecutionProvider', 'session_options': ort_options()}


def flashrank():
    # It looks its model up by one of its names in a folder; ours lies there under that name.
    from flashrank import Ranker, RerankRequest
    ranker = Ranker(model_name='ms-marco-MiniLM-L-12-v2', cache_dir=f'{folder}-flashrank', max_length=512)

    def score(lists):
        scores = []
        for query, documents in lists:
            found = ranker.rerank(RerankRequest(query=query, passages=[{'id': i, 'text': text} for i, text in enumerate(documents)]))
            by_id = {one['id']: float(one['score']) for one in found}
            scores += [by_id[i] for i in range(len(documents))]
        return scores
    return score


def fastembed():
    from fastembed.common.model_description import ModelSource
    from fastembed.rerank.cross_encoder import TextCrossEncoder
    TextCrossEncoder.add_custom_model(model='peer', model_file='onnx/model.onnx', sources=ModelSource(url='none'))
    model = TextCrossEncoder('peer', specific_model_path=folder, threads=threads)
    return lambda lists: [score for query, documents in lists for score in model.rerank(query, documents)]


def infinity(engine, folder=folder):
    import asyncio
    from infinity_emb import AsyncEngineArray, EngineArgs
    loop = asyncio.new_event_loop()
    array = AsyncEngineArray.from_args([EngineArgs(model_name_or_path=folder, engine=engine, device='cpu', bettertransformer=False, onnx_do_not_prefer_quantized=True)])
    model = array[0]
    loop.run_until_complete(model.astart())

    async def all_lists(lists):
        found = await asyncio.gather(*(model.rerank(query=query, docs=documents, raw_scores=True) for query, documents in lists))
        return [one.relevance_score for scores, _ in found for one in sorted(scores, key=lambda one: one.index)]
    return lambda lists: loop.run_until_complete(all_lists(lists))


def rerankers():
    import torch
    torch.set_num_threads(threads)
    from rerankers import Reranker
    ranker = Reranker(folder, model_type='cross-encoder', device='cpu', verbose=0)

    def score(lists):
        scores = []
        for query, documents in lists:
            found = {one.doc_id: float(one.score) for one in ranker.rank(query=query, docs=documents, doc_ids=list(range(len(documents)))).results}
            scores += [found[i] for i in range(len(documents))]
        return scores
    return score


PEERS = {
    'st-torch': lambda: sentence_transformers('torch'),
    'st-onnx': lambda: sentence_transformers('onnx', **onnx_settings('model.onnx')),
    'st-onnx-qint8': lambda: sentence_transformers('onnx', **onnx_settings('model_qint8.onnx')),
    'st-openvino': lambda: sentence_transformers('openvino', file_name='openvino_model.xml', ov_config={'INFERENCE_NUM_THREADS': threads}),
    # It computes in bf16 where the processor can, unless it is told not to.
    'st-openvino-fp32': lambda: sentence_transformers(
        'openvino', file_name='openvino_model.xml', ov_config={'INFERENCE_NUM_THREADS': threads, 'INFERENCE_PRECISION_HINT': 'f32'}
    ),
    'st-openvino-qint8': lambda: sentence_transformers('openvino', file_name='openvino_model_qint8_quantized.xml', ov_config={'INFERENCE_NUM_THREADS': threads}),
    'flashrank': flashrank,
    'fastembed': fastembed,
    'infinity-torch': lambda: infinity('torch'),
    'infinity-optimum': lambda: infinity('optimum'),
    'infinity-optimum-qint8': lambda: infinity('optimum', f'{folder}-quantized'),
    'rerankers': rerankers,
}

def serve(score, port):
    import fastapi
    import pydantic
    import uvicorn

    class Asked(pydantic.BaseModel):
        query: str
        documents: list[str]

    app = fastapi.FastAPI()
    # None of the libraries promises that a model may be called from two threads at once.
    lock = threading.Lock()

    @app.post('/rerank')
    def rerank(asked: Asked):
        with lock:
            scores = score([(asked.query, asked.documents)])
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        return {'results': [{'index': i, 'relevance_score': float(scores[i])} for i in order]}

    uvicorn.run(app, host='127.0.0.1', port=port, log_level='warning')


score = PEERS[name]()
score([('a question', ['an answer'])])
for port in ports:
    serve(score, port)
print('{"ready": true}', file=out, flush=True)
for line in sys.stdin:
    lists = [(one['query'], one['documents']) for one in json.loads(line)]
    before = time.perf_counter()
    scores = [float(one) for one in score(lists)]
    print(json.dumps({'seconds': time.perf_counter() - before, 'scores': scores}), file=out, flush=True)
