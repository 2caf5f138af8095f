"""Rerank clients as they come from PyPI, unmodified, with nothing but a base URL. Each check prints a line; the exit code
is the number that failed. `npm run test:clients:python` runs it against a server of its own."""

import asyncio
import io
import json
import os
import sys
import time
import traceback
from importlib.metadata import PackageNotFoundError, version

URL = os.environ["RANKMILL_TEST_SERVER"]
MODEL = os.environ["RANKMILL_TEST_MODEL"]
KEY = os.environ.get("RANKMILL_TEST_KEY", "none")
QUERY = "What is the capital of the United States?"
DOCUMENTS = [
    "Carson City is the capital city of the American state of Nevada.",
    "Apples and pears are fruit.",
    "Washington, D.C. is the capital of the United States.",
]
os.environ.update(CO_API_KEY=KEY, COHERE_API_KEY=KEY, LITELLM_LOG="ERROR", DO_NOT_TRACK="1")

# Only what requirements-few.txt names is installed.
FEW = bool(os.environ.get("RANKMILL_TEST_FEW"))
CHECKS = []


def check(package):
    def add(function):
        CHECKS.append((package, function))
        return function

    return add


def is_ranked(rows, index=lambda row: row.index, score=lambda row: row.relevance_score):
    rows = list(rows)
    scores = [score(row) for row in rows]
    assert rows, "no rows"
    assert index(rows[0]) == 2, f"first is {index(rows[0])}"
    assert scores == sorted(scores, reverse=True), scores
    assert all(0 <= value <= 1 for value in scores), scores


@check("cohere")
def cohere_v1():
    import cohere

    client = cohere.Client(api_key=KEY, base_url=URL)
    answer = client.rerank(model=MODEL, query=QUERY, documents=DOCUMENTS, top_n=2)
    assert len(answer.results) == 2 and answer.meta.billed_units.search_units == 1
    is_ranked(answer.results)
    answer = client.rerank(model=MODEL, query=QUERY, documents=[{"text": text} for text in DOCUMENTS], return_documents=True)
    assert [row.document.text for row in answer.results] == [DOCUMENTS[row.index] for row in answer.results]


@check("cohere")
def cohere_v2():
    import cohere

    answer = cohere.ClientV2(api_key=KEY, base_url=URL).rerank(model=MODEL, query=QUERY, documents=DOCUMENTS, top_n=3)
    assert len(answer.results) == 3
    is_ranked(answer.results)


@check("cohere")
def cohere_v2_async():
    import cohere

    async def ask():
        async with cohere.AsyncClientV2(api_key=KEY, base_url=URL) as client:
            asked = [client.rerank(model=MODEL, query=f"{QUERY} {i}", documents=DOCUMENTS) for i in range(16)]
            return await asyncio.gather(*asked)

    assert all(len(answer.results) == 3 for answer in asyncio.run(ask()))


@check("cohere")
def cohere_errors():
    import cohere

    try:
        cohere.ClientV2(api_key=KEY, base_url=URL).rerank(model=MODEL, query=QUERY, documents=[])
    except cohere.errors.BadRequestError as error:
        assert "documents" in error.body["message"], error.body
    else:
        raise AssertionError("no error")


@check("cohere")
def cohere_many_documents():
    import cohere

    documents = [f"document {i % 100} about nothing" for i in range(3000)] + [DOCUMENTS[2]]
    answer = cohere.ClientV2(api_key=KEY, base_url=URL).rerank(model=MODEL, query=QUERY, documents=documents, top_n=5)
    assert answer.results[0].index == 3000


@check("openai")
def openai_batch():
    import openai

    client = openai.OpenAI(api_key=KEY, base_url=f"{URL}/v1")
    assert MODEL in [model.id for model in client.models.list()]
    lines = [
        {"custom_id": f"r{i}", "method": "POST", "url": "/v1/rerank", "body": {"model": MODEL, "query": f"{QUERY} {i}", "documents": DOCUMENTS}}
        for i in range(30)
    ]
    content = "\n".join(json.dumps(line) for line in lines).encode()
    uploaded = client.files.create(file=("in.jsonl", io.BytesIO(content)), purpose="batch")
    assert client.files.retrieve(uploaded.id).bytes == len(content)
    batch = client.batches.create(input_file_id=uploaded.id, endpoint="/v1/rerank", completion_window="24h", metadata={"of": "test"})
    until = time.time() + 120
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        assert time.time() < until, batch.status
        time.sleep(0.2)
        batch = client.batches.retrieve(batch.id)
    assert batch.status == "completed" and batch.request_counts.completed == 30 and batch.error_file_id is None
    rows = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert [row["custom_id"] for row in rows] == [f"r{i}" for i in range(30)]
    assert all(row["response"]["body"]["results"][0]["index"] == 2 for row in rows)
    assert batch.id in [each.id for each in client.batches.list(limit=5)]
    assert client.files.delete(uploaded.id).deleted


@check("openai")
def openai_errors():
    import openai

    client = openai.OpenAI(api_key=KEY, base_url=f"{URL}/v1")
    try:
        client.files.retrieve("file-none")
    except openai.NotFoundError as error:
        assert error.code == "not_found" and error.request_id
    else:
        raise AssertionError("no error")


@check("voyageai")
def voyage():
    import voyageai

    client = voyageai.Client(api_key=KEY, base_url=f"{URL}/v1")
    answer = client.rerank(QUERY, DOCUMENTS, model=MODEL, top_k=2)
    assert len(answer.results) == 2 and answer.total_tokens >= 0
    is_ranked(answer.results)
    assert answer.results[0].document == DOCUMENTS[2]
    is_ranked(client.rerank(QUERY, DOCUMENTS, model=MODEL).results)


@check("huggingface_hub")
def hub():
    from huggingface_hub import InferenceClient

    # The hub's client has no rerank of its own: TEI's route is asked through its session, whose errors it reads.
    client = InferenceClient(base_url=f"{URL}/v1", api_key=KEY)
    from huggingface_hub.utils import get_session, hf_raise_for_status

    response = get_session().post(f"{URL}/rerank", json={"query": QUERY, "texts": DOCUMENTS})
    hf_raise_for_status(response)
    is_ranked(response.json(), lambda row: row["index"], lambda row: row["score"])
    assert client is not None
    wrong = get_session().post(f"{URL}/rerank", json={"texts": DOCUMENTS})
    try:
        hf_raise_for_status(wrong)
    except Exception as error:
        assert "query" in str(error), error
    else:
        raise AssertionError("no error")


def litellm_rerank(provider, base, **more):
    import litellm

    litellm.suppress_debug_info = True
    return litellm.rerank(model=f"{provider}/{MODEL}", query=QUERY, documents=DOCUMENTS, top_n=2, api_base=base, api_key=KEY, **more)


def litellm_is_ranked(answer):
    assert len(answer.results) == 2
    is_ranked(answer.results, lambda row: row["index"], lambda row: row["relevance_score"])


@check("litellm")
def litellm_cohere():
    answer = litellm_rerank("cohere", f"{URL}/v2/rerank")
    litellm_is_ranked(answer)
    litellm_is_ranked(litellm_rerank("cohere", f"{URL}/cohere/v2/rerank"))


@check("litellm")
def litellm_jina():
    answer = litellm_rerank("jina_ai", f"{URL}/v1/rerank")
    litellm_is_ranked(answer)
    assert answer.results[0]["document"]["text"] == DOCUMENTS[2]
    litellm_is_ranked(litellm_rerank("jina_ai", f"{URL}/jina/v1/rerank"))


@check("litellm")
def litellm_voyage():
    litellm_is_ranked(litellm_rerank("voyage", f"{URL}/v1/rerank"))
    litellm_is_ranked(litellm_rerank("voyage", f"{URL}/voyage/v1/rerank"))


@check("litellm")
def litellm_hosted_vllm():
    for base in (URL, f"{URL}/vllm"):
        answer = litellm_rerank("hosted_vllm", base)
        litellm_is_ranked(answer)
        assert answer.results[0]["document"]["text"] == DOCUMENTS[2]


@check("litellm")
def litellm_infinity():
    answer = litellm_rerank("infinity", f"{URL}/infinity")
    litellm_is_ranked(answer)
    assert answer.results[0]["document"]["text"] == DOCUMENTS[2]
    # It sends what hosted_vllm sends and wants documents as strings: the plain route serves it without documents only.
    litellm_is_ranked(litellm_rerank("infinity", URL, return_documents=False))


@check("langchain-cohere")
def langchain():
    from langchain_cohere import CohereRerank
    from langchain_core.documents import Document

    reranker = CohereRerank(model=MODEL, cohere_api_key=KEY, base_url=URL, top_n=2)
    found = reranker.compress_documents([Document(page_content=text) for text in DOCUMENTS], QUERY)
    assert [document.page_content for document in found][0] == DOCUMENTS[2] and len(found) == 2
    assert found[0].metadata["relevance_score"] > found[1].metadata["relevance_score"]


def llama_nodes():
    from llama_index.core.schema import NodeWithScore, TextNode

    return [NodeWithScore(node=TextNode(text=text), score=0.0) for text in DOCUMENTS]


@check("llama-index-postprocessor-cohere-rerank")
def llama_cohere():
    from llama_index.postprocessor.cohere_rerank import CohereRerank

    found = CohereRerank(api_key=KEY, model=MODEL, base_url=URL, top_n=2).postprocess_nodes(llama_nodes(), query_str=QUERY)
    assert found[0].node.text == DOCUMENTS[2] and len(found) == 2


@check("llama-index-postprocessor-tei-rerank")
def llama_tei():
    from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

    for base in (URL, f"{URL}/tei"):
        found = TextEmbeddingInference(base_url=base, top_n=2).postprocess_nodes(llama_nodes(), query_str=QUERY)
        assert found[0].node.text == DOCUMENTS[2] and len(found) == 2


@check("cohere-haystack")
def haystack():
    from haystack import Document
    from haystack.utils import Secret
    from haystack_integrations.components.rankers.cohere import CohereRanker

    ranker = CohereRanker(model=MODEL, api_key=Secret.from_token(KEY), api_base_url=URL, top_k=2)
    found = ranker.run(query=QUERY, documents=[Document(content=text) for text in DOCUMENTS])["documents"]
    assert found[0].content == DOCUMENTS[2] and len(found) == 2


@check("rerankers")
def rerankers_api():
    from rerankers.models.api_rankers import APIRanker

    for provider, path in (
        ("cohere", "/v1/rerank"),
        ("jina", "/v1/rerank"),
        ("voyage", "/voyage/v1/rerank"),
        ("text-embeddings-inference", "/rerank"),
    ):
        ranker = APIRanker(MODEL, KEY, provider, verbose=0, url=f"{URL}{path}")
        found = ranker.rank(QUERY, DOCUMENTS)
        assert found.results[0].doc_id == 2, (provider, found)


@check("openai")
def getting_started():
    """What docs/getting-started.md shows, word by word but for the address and the model."""
    page = open(os.path.join(os.path.dirname(__file__), "..", "..", "docs", "getting-started.md")).read()
    said = []
    for code in [part.split("```")[0] for part in page.split("```python\n")[1:]]:
        here = code.replace("http://127.0.0.1:8080", URL).replace("rankmill-small", MODEL).replace('"none"', repr(KEY))
        exec(here, {"print": lambda *values: said.append(" ".join(str(value) for value in values))})
    assert said[0].startswith("1 "), said
    assert said[1:] == ["q0 0", "q1 1", "q2 2"], said


def is_installed(package):
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def main():
    wanted = sys.argv[1:]
    failed = 0
    for package, function in CHECKS:
        if wanted and not any(word in function.__name__ or word == package for word in wanted):
            continue
        if FEW and not is_installed(package):
            print(f"skipped {package}: {function.__name__}: not among the few", flush=True)
            continue
        try:
            function()
            print(f"ok      {package} {version(package)}: {function.__name__}", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED  {package} {version(package)}: {function.__name__}", flush=True)
            traceback.print_exc()
    print(f"{failed} failed")
    return failed


sys.exit(main())
