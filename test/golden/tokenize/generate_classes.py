"""Writes worker/tokenize/tokenizer-class-table.ts: which tokeniser class `transformers` takes for a model folder.

    .cache/golden/bin/python test/golden/tokenize/generate_classes.py
"""

from pathlib import Path

import transformers
from transformers import TokenizersBackend
from transformers.models.auto import tokenization_auto as auto

TARGET = Path(__file__).resolve().parents[3] / "worker" / "tokenize" / "tokenizer-class-table.ts"
WIDTH = 118


def lines(words):
    row = ""
    for word in words:
        if row and len(row) + len(word) + 1 > WIDTH - 8:
            yield row + " "
            row = word
        else:
            row = f"{row} {word}" if row else word
    yield row


def constant(name, comment, words):
    rows = list(lines(words))
    body = " +\n".join(f"  '{row}'" for row in rows)
    return f"/** {comment} */\nexport const {name} =\n{body}\n"


def main():
    mapped = {key: value for key, value in auto.TOKENIZER_MAPPING_NAMES.items() if value}
    names = set(mapped.values()) | {n for n in dir(transformers) if n.endswith(("Tokenizer", "TokenizerFast"))}
    names |= {name + "Fast" for name in names if name.endswith("Tokenizer")} | {"TokenizersBackend", "PreTrainedTokenizerFast"}
    # Classes that models name although transformers 5 keeps them only as aliases.
    names |= {name + fast for name in ("ElectraTokenizer", "RetriBertTokenizer", "NezhaTokenizer", "QDQBertTokenizer") for fast in ("", "Fast")}
    classes, types = {}, set()
    for name in sorted(names):
        try:
            found = auto.tokenizer_class_from_name(name)
        except Exception:  # one that wants a package that is not here
            found = None
        if not isinstance(found, type) or found is auto.AutoTokenizer:
            continue
        if found.__name__ == "PythonBackend":
            found = TokenizersBackend
        if issubclass(found, TokenizersBackend):
            classes[name] = found.__name__
            if "token_type_ids" in found.model_input_names:
                types.add(found.__name__)
        else:
            classes[name] = "-"
    wrong = sorted(auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS)
    pairs = [f"{key} {value}" for key, value in sorted(mapped.items()) if value in classes]
    content = (
        "/**\n * Which tokeniser class transformers takes for a model folder, written by\n"
        f" * test/golden/tokenize/generate_classes.py from transformers {transformers.__version__}.\n */\n\n"
        + constant("MODEL_TYPE_CLASSES", "By model_type of config.json: type and class, in turn.", [w for p in pairs for w in p.split()])
        + "\n"
        + constant(
            "CLASS_NAMES",
            "Names that tokenizer_config.json may have, and the class that each is; - for one that reads no tokenizer.json.",
            [w for name, found in sorted(classes.items()) for w in (name, found)],
        )
        + "\n"
        + constant("TYPED_CLASSES", "Classes that give token_type_ids.", sorted(types))
        + "\n"
        + constant("OVERRULED_MODEL_TYPES", "Model types whose folders are known to name a wrong class: the class is then that of the type.", wrong)
    )
    TARGET.write_text(content)


if __name__ == "__main__":
    main()
