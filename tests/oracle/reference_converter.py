"""convert_hf_to_gguf.py of $LLAMA_CPP (a source checkout) as a function, in this process."""
import logging
import os
import pathlib
import sys

sys.path[:0] = [os.environ["LLAMA_CPP"], os.path.join(os.environ["LLAMA_CPP"], "gguf-py")]
import gguf  # noqa: E402
import torch  # noqa: E402
from convert_hf_to_gguf import get_model_architecture, get_model_class  # noqa: E402
from conversion.base import ModelBase, ModelType  # noqa: E402

logging.disable(logging.ERROR)
TYPES = {"f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16, "bf16": gguf.LlamaFileType.MOSTLY_BF16,
         "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0, "auto": gguf.LlamaFileType.GUESSED}


def convert(source, out, outtype, name=None):
    """Write out; the reason why it has no vocabulary, or None. What it does not convert raises. A tokenizer that does not fit the family is no
    reason to stop: then the file has none. name: its class, where it is not the one that config.json names."""
    why = None
    with torch.inference_mode():
        name = name or get_model_architecture(ModelBase.load_hparams(pathlib.Path(source), False), ModelType.TEXT)
        model = get_model_class(name)(pathlib.Path(source), TYPES[outtype], pathlib.Path(out))
        own = model.set_vocab

        def attempt():
            nonlocal why
            try:
                own()
            except (Exception, SystemExit) as e:
                why = f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"[:100]

        model.set_vocab = attempt
        model.write()
    return why
