"""Trains the three small tokenisers beside this file: cased WordPiece, Unigram like XLM-RoBERTa, BPE like ModernBERT.

    python test/golden/tokenize/train.py UNCASED_TOKENIZER_JSON

The text is made here: sentences of our own in many languages, and lines of words drawn from the vocabulary of the
uncased tokeniser. Which tokens come out matters little; that pipelines, flags and the charsmap are the real ones does.
"""

import io
import json
import random
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import sentencepiece
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers.convert_slow_tokenizer import XLMRobertaConverter

HERE = Path(__file__).resolve().parent
SENTENCES = """
A failed job is retried with a growing delay, and after the last attempt it stays in the failed set.
The worker renews its lock every fifteen seconds; a job that loses its lock is stalled and runs again.
Don't close the connection before the queue is drained: you'll lose what's still in flight, won't you?
const worker = new Worker('rank', async (job) => { await score(job.data) }, { connection, concurrency: 64 })
if (error instanceof RankError && error.code === "overloaded") { return retryAfter(error.details.retryAfterMs) }
See https://example.org/docs/queues?page=2#retries or write to help@example.org (2024-11-23, 10:45:07, +3.5 %).
Der Prüfer wählt größere Stücke, weil kürzere Sätze weniger über die Frage sagen.
Le résultat est gardé pendant une heure, puis effacé ; l'appelant doit donc le lire à temps.
El trabajador señala cada respuesta con su número y continúa mañana con la próxima tarea.
Каждый запрос попадает в очередь, и рабочий процесс оценивает все документы по порядку.
Το σύστημα διαβάζει κάθε έγγραφο μία φορά και κρατά τα αποτελέσματα για λίγο.
系统把每个段落只分词一次，然后把结果放进缓存，这样速度会快很多。
検索の結果を並べ替えるために、質問と文章を一緒にモデルに入れます。
각 문서는 한 번만 처리되고 결과는 잠시 동안 저장됩니다.
يقرأ النظام كل مستند مرة واحدة ثم يحفظ النتيجة لمدة قصيرة.
המערכת קוראת כל מסמך פעם אחת ושומרת את התוצאה לזמן קצר.
प्रणाली हर दस्तावेज़ को एक बार पढ़ती है और परिणाम को कुछ समय तक रखती है।
ระบบอ่านเอกสารแต่ละฉบับหนึ่งครั้งและเก็บผลลัพธ์ไว้ชั่วคราว
Hệ thống đọc mỗi tài liệu một lần và giữ kết quả trong thời gian ngắn.
😀 🎉 👍🏽 👩‍👩‍👧 🇩🇪 🇫🇷 ❤️ ✅ → ← … — “quoted” ‘single’ «guillemets» № § © ® ™ ½ ² ₃ €
""".strip().splitlines()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def text(uncased):
    rng = random.Random(7)
    vocabulary = json.loads(Path(uncased).read_text())["model"]["vocab"]
    words = [word for word, _ in sorted(vocabulary.items(), key=lambda item: item[1]) if re.fullmatch("[a-z]{2,}", word)]
    weights = [1 / (rank + 10) for rank in range(len(words))]
    lines = []
    for _ in range(4000):
        line = rng.choices(words, weights, k=14)
        line = [word.capitalize() if rng.random() < 0.15 else word for word in line]
        lines.append(" ".join(line) + rng.choice([".", "?", "!", ";", ""]))
    return lines + SENTENCES * 20


def save(name, tokenizer, pad):
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(
        json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8"
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": pad, "model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}) + "\n")
    print(name, tokenizer.get_vocab_size(), (folder / "tokenizer.json").stat().st_size)


def template(cls, sep, between, second, tokenizer):
    return processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls}:0 $A:0 {between} $B:{second} {sep}:{second}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in [cls, sep]],
    )


def cased_word_piece(lines):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=False, lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(lines, trainers.WordPieceTrainer(vocab_size=4000, special_tokens=SPECIAL, show_progress=False))
    # A word of ours that is looked for in normalised text, as add_tokens makes them.
    tokenizer.add_tokens([AddedToken("RankMill", single_word=True)])
    cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", sep), ("[CLS]", cls))
    save("wordpiece-cased", tokenizer, "[PAD]")


def unigram(lines):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=4000, model_type="unigram", num_threads=1,
        character_coverage=0.9995, normalization_rule_name="nmt_nfkc", minloglevel=2,
    )
    file = HERE / "unigram.model"
    file.write_bytes(model.getvalue())
    slow = SimpleNamespace(vocab_file=str(file), convert_tokens_to_ids={"<s>": 0, "</s>": 2}.get)
    tokenizer = XLMRobertaConverter(slow).converted()
    file.unlink()
    plain = [AddedToken(token, normalized=False, special=True) for token in ["<s>", "<pad>", "</s>", "<unk>"]]
    # The flags of xlm-roberta-base.
    tokenizer.add_special_tokens([*plain, AddedToken("<mask>", lstrip=True, normalized=True, special=True)])
    save("unigram", tokenizer, "<pad>")


def byte_level_bpe(lines):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=5000, initial_alphabet=alphabet, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    # The kinds of added tokens of ModernBERT: names and runs of spaces in normalised text, a mask that eats spaces.
    tokenizer.add_tokens([AddedToken("|||IP_ADDRESS|||", normalized=True)])
    tokenizer.add_tokens([AddedToken(" " * count, normalized=True) for count in range(12, 1, -1)])
    tokenizer.add_special_tokens([AddedToken("[MASK]", lstrip=True, normalized=False, special=True)])
    tokenizer.post_processor = template("[CLS]", "[SEP]", "[SEP]:0", 1, tokenizer)
    save("bpe", tokenizer, "[PAD]")


if __name__ == "__main__":
    corpus = text(sys.argv[1])
    cased_word_piece(corpus)
    unigram(corpus)
    byte_level_bpe(corpus)
