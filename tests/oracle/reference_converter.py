"""convert_hf_to_gguf.py of $LLAMA_CPP (a source checkout), run on a directory: usage IN OUT TYPE. Where the tokenizer files do not fit
the family it goes on without a vocabulary, and says so in its last line."""
import os
import pathlib
import sys

sys.path[:0] = [os.environ["LLAMA_CPP"], os.path.join(os.environ["LLAMA_CPP"], "gguf-py")]
import gguf  # noqa: E402
import torch  # noqa: E402
from convert_hf_to_gguf import get_model_architecture, get_model_class  # noqa: E402
from conversion.base import ModelBase, ModelType  # noqa: E402

source, out, outtype = sys.argv[1:]
types = {"f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16, "bf16": gguf.LlamaFileType.MOSTLY_BF16,
         "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0, "auto": gguf.LlamaFileType.GUESSED}
vocabulary = "with"
with torch.inference_mode():
    name = get_model_architecture(ModelBase.load_hparams(pathlib.Path(source), False), ModelType.TEXT)
    model = get_model_class(name)(pathlib.Path(source), types[outtype], pathlib.Path(out))
    own = model.set_vocab

    def attempt():
        global vocabulary
        try:
            own()
        except (Exception, SystemExit) as why:  # whatever its reason is
            vocabulary = f"without ({type(why).__name__}: {str(why)[:80]})"

    model.set_vocab = attempt
    model.write()
print(f"{vocabulary} vocabulary")
