/* tool_inspect_facts.c - what the report and the JSON of moegraft-inspect both say of a model. */
#include <stdio.h>
#include <string.h>
#include <inttypes.h>

#include "formats/base/file.h"
#include "formats/hf_dir.h"
#include "formats/tool_inspect.h"

int64_t inspect_per_token(const inspection *in) {
    const uint32_t asked = in->common.experts_per_token;
    if (asked == MG_EXPERTS_ALL) return mg_hp_i(in->model, MG_K_EXPERTS);
    return asked ? (int64_t)asked : mg_hp_i(in->model, MG_K_EXPERTS_USED);
}

bool inspect_is_model(const inspection *in) {
    if (!in->ckpt || in->ckpt->container == MG_CONTAINER_HF_DIR || in->ckpt->params) return true;
    mg_str type;
    if (mg_kv_str(mg_kvs_get(in->ckpt->kv, "general.type"), &type) && strcmp(type.data, "model") != 0) return false;
    return mg_kvs_get(in->ckpt->kv, "general.architecture") != NULL;
}

const char *inspect_format(const inspection *in) {
    if (!in->ckpt) return "config";
    switch (in->ckpt->container) {
    case MG_CONTAINER_SAFETENSORS:
        return "safetensors";
    case MG_CONTAINER_HF_DIR:
        return "hf";
    case MG_CONTAINER_GGUF:
        return "gguf";
    case MG_CONTAINER_PLAN:
        return "plan";
    case MG_CONTAINER_TORCH:
        return "torch";
    case MG_CONTAINER_NATIVE:
        return "native";
    }
    return "?";
}

type_sum inspect_types(const inspection *in, type_sum by[MG_DTYPE_COUNT]) {
    type_sum all = {0};
    memset(by, 0, MG_DTYPE_COUNT * sizeof *by);
    for (uint32_t i = 0; in->ckpt && i < in->ckpt->n_tensors; i++) {
        const mg_tensor *t = &in->ckpt->tensors[i];
        type_sum *to[2] = {&by[t->dtype], &all};
        for (int k = 0; k < 2; k++) {
            to[k]->tensors++;
            to[k]->elements += t->n_elements;
            to[k]->bytes += t->n_bytes;
        }
    }
    if (!in->dense || in->dense == in->ckpt) return all;
    all.elements = 0; /* weights are counted, not the words that hold their codes */
    for (uint32_t i = 0; i < in->dense->n_tensors; i++) all.elements += in->dense->tensors[i].n_elements;
    return all;
}

double inspect_bits_per_weight(type_sum s) {
    return s.elements ? 8.0 * (double)s.bytes / (double)s.elements : 0;
}

void inspect_tokenizer(const inspection *in, char *buf, size_t size) {
    static const char *const files[] = {"tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json"};
    mg_str kind;
    buf[0] = 0;
    if (!in->ckpt) return;
    if (in->ckpt->kv) {
        const mg_kv *tokens = mg_kvs_get(in->ckpt->kv, "tokenizer.ggml.tokens");
        if (mg_kv_str(mg_kvs_get(in->ckpt->kv, "tokenizer.ggml.model"), &kind))
            snprintf(buf, size, "%s, %" PRIu64 " tokens", kind.data, tokens ? tokens->count : 0);
        return;
    }
    for (size_t i = 0; in->ckpt->dir && i < sizeof files / sizeof *files; i++) {
        char path[4096];
        size_t at = strlen(buf);
        if (mg_path_join(path, sizeof path, in->ckpt->dir, files[i], NULL) == MG_OK && mg_path_exists(path))
            snprintf(buf + at, size - at, "%s%s", at ? ", " : "", files[i]);
    }
}

const char *inspect_template(const inspection *in) {
    char path[4096];
    if (!in->ckpt) return NULL;
    if (in->ckpt->kv) return mg_kvs_get(in->ckpt->kv, "tokenizer.chat_template") ? "tokenizer.chat_template" : NULL;
    if (!in->ckpt->dir) return NULL;
    if (mg_path_join(path, sizeof path, in->ckpt->dir, "chat_template.jinja", NULL) == MG_OK && mg_path_exists(path))
        return "chat_template.jinja";
    mg_json *j = NULL;
    bool found = mg_path_join(path, sizeof path, in->ckpt->dir, "tokenizer_config.json", NULL) == MG_OK &&
                 mg_json_load(&j, path, MG_HF_CONFIG_CAP, NULL) == MG_OK && mg_json_get(j, "chat_template");
    mg_json_free(j);
    return found ? "tokenizer_config.json" : NULL;
}

const char *inspect_runs_in(const inspection *in) {
    if (!in->model || !in->ckpt) return NULL;
    return in->ckpt->kv ? "llama.cpp and what is built on it (Ollama, LM Studio, llama-cpp-python); moegraft forward"
                        : "transformers, vLLM; moegraft forward";
}
