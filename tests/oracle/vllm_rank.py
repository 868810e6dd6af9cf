"""One tensor-parallel rank of vllm_load.py: model directories in vLLM's CPU build, one after the other; prints a line of JSON for each.

The engine is real but for two things. Where it chooses what to do with a layer - methods, kernels, shapes of parameters - it is told
that the machine is an NVIDIA GPU, in the type that vLLM would run the model in there, and its checks decide. Where the kernel would
repack what was loaded, the layer becomes a dense f32 one, decoded from vLLM's own parameters by the layout that vLLM gave them."""
import argparse
import contextlib
import gc
import inspect
import json
import os
import pathlib
import traceback

os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_OMP_THREADS_BIND="nobind", VLLM_CPU_KVCACHE_SPACE="1", HF_HUB_OFFLINE="1",
                  VLLM_NO_USAGE_STATS="1", VLLM_LOGGING_LEVEL="ERROR")
import torch
import vllm._custom_ops as ops
import vllm.model_executor.model_loader.base_loader as base_loader
import vllm.model_executor.models.registry as registry
import vllm.platforms as platforms
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, PreTrainedConfig
from vllm import LLM, SamplingParams
from vllm.config import LoadConfig, VllmConfig, get_current_vllm_config_or_none
from vllm.distributed.parallel_state import cleanup_dist_env_and_memory
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS, auto_awq, auto_gptq, get_quantization_config
from vllm.model_executor.layers.quantization.kv_cache import BaseKVCacheMethod
from vllm.model_executor.layers.quantization.utils.nvfp4_emulation_utils import break_fp4_bytes
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.platforms.interface import DeviceCapability

FILLS = (0x35, 0x4a)  # bytes: as floats of any kind finite and different
AWQ_ORDER = [0, 4, 1, 5, 2, 6, 3, 7]  # where columns 0 to 7 of a word lie
# Parameters that vLLM makes for all files of a method and does not use when they are not there.
OPTIONAL = ("w13_bias", "w2_bias", "w13_input_global_scale", "w2_input_global_scale",
            *(f".attn.{t}_{part}" for t in "qkv" for part in ("scale", "zero_point")))


class Report:
    """What is found about one model; the hooks write to `now`."""
    now = None

    def __init__(self):
        self.methods, self.quantized, self.tensors = set(), set(), set()
        self.unfilled, self.unread, self.logits, self.dtype, self.quant_config = [], [], [], None, None


# ---- what is read, what is written ----

class Reads:
    """Which tensors of the files end up in copies: storages are followed through casts and transposes."""

    def __init__(self):
        reads = self
        self.names, self.alive, self.used = {}, [], set()

        class Mode(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                out = func(*args, **(kwargs or {}))
                if func._overloadpacket is torch.ops.aten.copy_:
                    reads.used |= reads.of(args[1])
                elif isinstance(out, torch.Tensor):
                    origin = set().union(*(reads.of(a) for a in args if isinstance(a, torch.Tensor)))
                    if origin:
                        reads.add(out, origin)
                return out
        self.mode = Mode()

    def add(self, tensor, names):
        self.alive.append(tensor)
        self.names.setdefault(tensor.untyped_storage().data_ptr(), set()).update(names)

    def of(self, tensor):
        return self.names.get(tensor.untyped_storage().data_ptr(), set())


def fill(parameters, value):
    for p in parameters:
        (p.data.view(torch.uint8) if p.dim() else p.data).fill_(value)


def same_bytes(a, b):
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


def hook_loading():
    load, weights = DefaultModelLoader.load_weights, DefaultModelLoader.get_all_weights

    def named(self, *args):
        for name, tensor in weights(self, *args):
            Report.now.reads.add(tensor, {name})
            Report.now.tensors.add(name)
            yield name, tensor

    def twice(self, model, config):
        now, parameters, seen = Report.now, dict(model.named_parameters()), []
        now.reads = Reads()
        before = {n: p.detach().clone() for n, p in parameters.items()}
        for value in FILLS:
            fill(parameters.values(), value)
            with now.reads.mode:
                load(self, model, config)
            seen.append({n: p.detach().clone() for n, p in parameters.items()})
        missed = [n for n in parameters if not same_bytes(seen[0][n], seen[1][n])]
        for n in missed:
            parameters[n].data.copy_(before[n])
        now.unfilled = [n for n in missed if not n.endswith(OPTIONAL)]
        now.unread = sorted(now.tensors - now.reads.used)
    DefaultModelLoader.get_all_weights, DefaultModelLoader.load_weights = named, twice


# ---- a GPU that is not there ----

class Gpu:
    """What vLLM asks the machine is answered as an NVIDIA GPU would answer."""

    def __init__(self, capability):
        self.cls = type(platforms.current_platform)
        # asked of the compiled part, which a CPU build has not
        for name, least in (("fp8", 89), ("block_fp8", 90), ("fp4", 100)):
            setattr(ops, f"cutlass_scaled_mm_supports_{name}", lambda c, least=least: c >= least)
        ops.cutlass_group_gemm_supported = lambda c: c >= 90
        self.answers = {"_enum": platforms.PlatformEnum.CUDA, "device_type": "cuda", "get_device_name": classmethod(lambda c, device_id=0: "NVIDIA GPU"),
                        "get_device_capability": classmethod(lambda c, device_id=0: DeviceCapability(capability // 10, capability % 10)),
                        "supports_fp8": classmethod(lambda c: capability >= 89)}

    @contextlib.contextmanager
    def __call__(self):
        old = {k: self.cls.__dict__.get(k, self) for k in self.answers}
        for k, v in self.answers.items():
            setattr(self.cls, k, v)
        try:
            yield
        finally:
            for k, v in old.items():
                delattr(self.cls, k) if v is self else setattr(self.cls, k, v)


@contextlib.contextmanager
def in_type(dtype, moe):
    """The engine runs in f32; layers are made as in the model's own type."""
    config = get_current_vllm_config_or_none()
    places = [(o, n) for o, n in ((moe, "in_dtype"), (config and config.model_config, "dtype")) if o]
    old, default = [getattr(o, n) for o, n in places], torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    for o, n in places:
        setattr(o, n, dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(default)
        for (o, n), value in zip(places, old):
            setattr(o, n, value)


def choose_as_gpu(gpu, quant_config):
    """Methods and parameters of every layer as a GPU would get them."""
    now, choose = Report.now, quant_config.get_quant_method

    def chosen(layer, prefix):
        moe = getattr(layer, "moe_config", None)
        with gpu(), in_type(now.dtype, moe):
            method = choose(layer, prefix)
        if isinstance(method, (UnquantizedFusedMoEMethod, UnquantizedLinearMethod)):
            return UnquantizedFusedMoEMethod(moe) if moe else UnquantizedLinearMethod()  # which run here
        if method is None or isinstance(method, BaseKVCacheMethod):
            return method
        create = method.create_weights

        def created(*args, **kwargs):
            with gpu(), in_type(now.dtype, moe):
                given = inspect.signature(create).bind(*args, **kwargs)
                given.arguments["params_dtype"] = now.dtype
                create(*given.args, **given.kwargs)
            how = getattr(layer, "scheme", method)
            kernel = getattr(how, "kernel", None) or getattr(how, "fp8_linear", None) or getattr(method, "experts_cls", None)
            kernel = kernel if isinstance(kernel, type) else type(kernel)
            now.methods.add(f"{type(how).__name__}/{kernel.__name__}")
        method.create_weights = created
        now.quantized.add(id(layer))
        return method
    quant_config.get_quant_method = chosen


# ---- decoding vLLM's parameters ----

def bits_of(words, bits):
    """int32 words, a dense stream along the last axis: the codes."""
    raw = (words.unsqueeze(-1) >> torch.arange(32, dtype=torch.int32)) & 1
    raw = raw.reshape(*words.shape[:-1], -1, bits)
    return (raw << torch.arange(bits, dtype=torch.int32)).sum(-1, dtype=torch.int32)


def swap(t):
    return t.transpose(-1, -2).contiguous()


def awq_codes(words):  # [.., A, B/8] -> [.., B, A]
    codes = bits_of(words, 4)
    return swap(codes.reshape(*words.shape, 8)[..., AWQ_ORDER].reshape(codes.shape))


def spread(scales, columns):
    return scales.float().repeat_interleave(columns // scales.shape[-1], -1)


def integers(codes, scales, zeros):
    """codes [.., N, K], scales [.., N, G], zeros [.., N, G] or a number."""
    k = codes.shape[-1]
    return (codes - (zeros if isinstance(zeros, int) else zeros.repeat_interleave(k // zeros.shape[-1], -1))).float() * spread(scales, k)


def decode(layer, part, config):
    """Weight [.., N, K] of a layer; part is "", "w13_" or "w2_"."""
    get = lambda name: getattr(layer, part + name).data
    has = lambda name: getattr(layer, part + name, None) is not None
    if config.get_name() == "auto_awq":
        return integers(awq_codes(get("qweight")), swap(get("scales")), awq_codes(get("qzeros")))
    if config.get_name() == "auto_gptq":
        return integers(bits_of(swap(get("qweight")), config.weight_bits), swap(get("scales")), 1 << (config.weight_bits - 1))
    if has("weight_packed") and get("weight_packed").dtype == torch.uint8:
        packed, scale = get("weight_packed"), get("weight_scale")
        values = break_fp4_bytes(packed.reshape(-1, packed.shape[-1]), torch.float32).reshape(*packed.shape[:-1], -1)
        scale = scale.float() if scale.dtype != torch.uint8 else torch.exp2(scale.float() - 127)
        if has("weight_global_scale"):
            each = get("weight_global_scale")  # of joined weights the largest is taken, of joined experts the first
            scale = scale / (each.max() if scale.dim() == 2 else each.reshape(len(each), -1)[:, :1, None])
        return values * spread(scale, values.shape[-1])
    if has("weight_packed"):
        bits = config.target_scheme_map["Linear"]["weights"].num_bits
        zeros = swap(bits_of(swap(get("weight_zero_point")), bits)) if has("weight_zero_point") else 1 << (bits - 1)
        return integers(bits_of(get("weight_packed"), bits), get("weight_scale"), zeros)
    weight, scale = get("weight").float(), get("weight_scale").float()
    block = getattr(layer, "weight_block_size", None)
    if block:
        scale = scale.repeat_interleave(block[0], -2)[..., :weight.shape[-2], :]
        return weight * scale.repeat_interleave(block[1], -1)[..., :weight.shape[-1]]
    return weight * scale


def make_dense(model):
    for layer in model.modules():
        if id(layer) not in Report.now.quantized:
            continue
        is_moe = hasattr(layer, "moe_config")
        config = getattr(layer.quant_method, "quant_config", Report.now.quant_config)
        dense = {f"{p}weight": decode(layer, p, config) for p in (("w13_", "w2_") if is_moe else ("",))}
        for name in [n for n, _ in layer.named_parameters(recurse=False) if n != "bias"]:
            delattr(layer, name)
        for name, weight in dense.items():
            layer.register_parameter(name, torch.nn.Parameter(weight, requires_grad=False))
        if is_moe:
            layer._replace_quant_method(UnquantizedFusedMoEMethod(layer.moe_config))
        else:
            layer.quant_method = UnquantizedLinearMethod()


# ---- running ----

def hook_running(gpu):
    for c in (auto_awq.AutoAWQConfig, auto_gptq.AutoGPTQConfig):
        c.supported, c.get_supported_act_dtypes = c.get_supported_act_dtypes, classmethod(lambda cls: [*cls.supported(), torch.float32])
    process, find, logits = base_loader.process_weights_after_loading, VllmConfig._get_quantization_config, LogitsProcessor.forward

    def processed(model, *args):
        make_dense(model)
        process(model, *args)

    def found(model_config, load_config):
        Report.now.quant_config = config = find(model_config, load_config)
        if config:
            choose_as_gpu(gpu, config)
        return config

    def recorded(self, *args, **kwargs):
        Report.now.logits.append(logits(self, *args, **kwargs))
        return Report.now.logits[-1]
    base_loader.process_weights_after_loading = processed
    VllmConfig._get_quantization_config = staticmethod(found)
    LogitsProcessor.forward = recorded
    return find


def examine(folder, tp, gpu, find, ids):
    now = Report.now = Report()
    with gpu():  # as a user would start it: the type of the files, and whether its method takes that
        as_is = EngineArgs(model=str(folder), skip_tokenizer_init=True).create_model_config()
        config = find(as_is, LoadConfig())
        assert as_is.dtype in (config.supported() if hasattr(config, "supported") else config.get_supported_act_dtypes()), as_is.dtype
    now.dtype = as_is.dtype
    llm = LLM(model=str(folder), dtype="float32", enforce_eager=True, skip_tokenizer_init=True, max_model_len=len(ids[0]) + 8, max_num_seqs=1,
              tensor_parallel_size=tp, distributed_executor_backend="external_launcher" if tp > 1 else "uni", enable_prefix_caching=False, seed=0)
    found = []
    for one in ids:
        now.logits.clear()
        llm.generate([{"prompt_token_ids": one}], SamplingParams(max_tokens=1, prompt_logprobs=1, detokenize=False), use_tqdm=False)
        if now.logits[0] is not None:  # rank 0: the last position, which is sampled from, then those before it
            found.append(torch.cat([now.logits[1], now.logits[0]]))
    return now, found


class DeepseekConfig(PreTrainedConfig):
    """Of code on the hub, which config.json names and --trust-remote-code fetches; the keys of config.json are all that vLLM reads."""
    model_type = "deepseek"


def main():
    p = argparse.ArgumentParser()
    p.add_argument("work", type=pathlib.Path)
    p.add_argument("tp", type=int)
    p.add_argument("rank", type=int)
    p.add_argument("gpu", type=int)
    p.add_argument("dirs", type=pathlib.Path, nargs="+")
    args = p.parse_args()
    AutoConfig.register("deepseek", DeepseekConfig)
    registry._run_in_subprocess = lambda look: look()  # at a model's class: there is no GPU to keep out of this process
    for name in QUANTIZATION_METHODS:  # imports that ask what the machine is
        get_quantization_config(name)
    gpu = Gpu(args.gpu)
    hook_loading()
    find = hook_running(gpu)
    ids = load_file(args.work / "ids.safetensors")["input_ids"].tolist()
    for folder, port in zip(args.dirs, os.environ["PORTS"].split(",")):
        os.environ["MASTER_PORT"] = port
        try:
            now, logits = examine(folder, args.tp, gpu, find, ids)
            out = {"dtype": str(now.dtype), "methods": sorted(now.methods), "unfilled": now.unfilled, "unread": now.unread}
            if args.rank == 0:
                save_file({"logits": torch.stack(logits)}, args.work / f"{folder.name}.vllm.safetensors")
        except Exception as e:
            traceback.print_exc()
            out = {"refused": f"{type(e).__name__}: {e}"}
        gc.collect()
        cleanup_dist_env_and_memory()  # the next model may need other groups, and this one may have been refused half way
        print("RESULT " + json.dumps(out), flush=True)


main()
