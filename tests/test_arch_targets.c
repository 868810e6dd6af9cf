/* The writing side: tensors and keys in the reference converter's order, both layouts there and back byte for byte. */
#include "arch_test.h"

static void set_architecture(memory_checkpoint *c, const mg_model *source) {
    const char *name = source->arch->gguf_arch;
    cr_assert_eq(mg_kvs_set_str(&c->own_kv, "general.architecture", name, strlen(name), NULL), MG_OK);
    cr_assert_eq(mg_arch_gguf_keys(&c->own_kv, source->arch, &source->hp, 0, NULL), MG_OK);
    c->base.kv = &c->own_kv;
    c->base.container = MG_CONTAINER_GGUF;
}

/* Parts whose rows alternate in the file, put there by hand: [join][rows][cols] to [cols][join * rows] with the row the
 * slower index, or [join][n] to [join * n]. */
static void put_joined(const mg_target *x, const uint8_t *parts, uint64_t rows, uint64_t cols, uint64_t size,
                       uint8_t *out) {
    bool transposed = false;
    for (uint32_t v = 0; v < MG_MAX_VIEWS && x->after[v].kind != MG_VIEW_END; v++)
        transposed = transposed || x->after[v].kind == MG_VIEW_TRANSPOSE;
    cr_assert(transposed || cols == 1);
    for (uint32_t t = 0; t < x->join; t++)
        for (uint64_t r = 0; r < rows; r++)
            for (uint64_t c = 0; c < cols; c++)
                memcpy(out + (c * x->join * rows + r * x->join + t) * size, parts + ((t * rows + r) * cols + c) * size,
                       size);
}

static void rewrite_joined(mg_model *source, const mg_target *x, mg_tensor *to, uint8_t *out) {
    const uint64_t size = mg_dtype_get(to->dtype)->block_bytes, group = to->n_bytes / (x->n_parts / x->join);
    uint8_t *parts = malloc(group);
    for (uint32_t p = 0; p < x->n_parts; p += x->join) {
        mg_bound b;
        mg_error err = {0};
        for (uint32_t t = 0; t < x->join; t++) {
            cr_assert_eq(mg_target_bind(&b, source, x, p + t, &err), MG_OK, "%s", error_text(&err));
            cr_assert_eq(mg_model_read_rows(source, &b, 0, mg_bound_rows(&b), parts + t * (group / x->join), &err),
                         MG_OK, "%s", error_text(&err));
        }
        put_joined(x, parts, b.shape[0], b.rank > 1 ? b.shape[1] : 1, size, out + p / x->join * group);
    }
    free(parts);
}

/* Write source in a layout, into memory. */
static memory_checkpoint *rewrite(mg_model *source, const mg_arch *arch, mg_layout layout, const char *config) {
    memory_checkpoint *c = memory_new(config);
    mg_targets t;
    mg_error err = {0};
    cr_assert_eq(mg_arch_targets(&t, arch, &source->hp, source->layers, layout, mg_model_has, source, &err), MG_OK,
                 "%s", error_text(&err));
    if (layout == MG_LAYOUT_GGUF) cr_assert_eq(mg_targets_order(&t, source, &err), MG_OK, "%s", error_text(&err));
    for (size_t i = 0; i < t.n; i++) {
        const mg_target *x = &t.items[i];
        cr_assert_eq(mg_checkpoint_find(&c->base, x->name), MG_STRMAP_NONE, "names are unique");
        if (x->generated) {
            uint32_t g = memory_add(c, x->name, MG_F32, x->rank, x->shape);
            cr_assert_eq(
                mg_arch_generate((float *)(void *)c->data[g], x->shape[0], x->parts[0].role, &source->hp, &err), MG_OK);
            continue;
        }
        mg_bound b;
        cr_assert_eq(mg_target_bind(&b, source, x, 0, &err), MG_OK);
        mg_bound plain = b;
        if (mg_bound_take_add(&plain) != 0) { /* an offset of norms: exact in f32, and bf16 again on the way back */
            uint32_t v = memory_add(c, x->name, layout == MG_LAYOUT_GGUF ? MG_F32 : MG_BF16, x->rank, x->shape);
            float *values = read_exact(source, &b);
            for (uint64_t k = 0; k < elements_of(&b); k++) {
                if (layout == MG_LAYOUT_GGUF)
                    ((float *)(void *)c->data[v])[k] = values[k];
                else
                    ((uint16_t *)(void *)c->data[v])[k] = mg_f32_to_bf16(values[k]);
            }
            free(values);
            continue;
        }
        uint32_t index = memory_add(c, x->name, mg_model_tensor(source, &b)->dtype, x->rank, x->shape);
        if (x->join > 1) {
            rewrite_joined(source, x, &c->base.tensors[index], c->data[index]);
            continue;
        }
        uint64_t row_bytes = mg_tensor_row_bytes(&c->base.tensors[index]), row = 0;
        for (uint32_t p = 0; p < x->n_parts; p++) {
            uint64_t in_part;
            cr_assert_eq(mg_target_bind(&b, source, x, p, &err), MG_OK, "%s", error_text(&err));
            cr_assert_eq(mg_target_part_of_row(x, row, &in_part), p);
            cr_assert_eq(in_part, 0);
            cr_assert_eq(mg_bound_rows(&b), x->parts[p].rows);
            cr_assert_eq(mg_model_row_bytes(source, &b), row_bytes);
            cr_assert_eq(mg_model_read_rows(source, &b, 0, x->parts[p].rows, c->data[index] + row * row_bytes, &err),
                         MG_OK, "%s", error_text(&err));
            row += x->parts[p].rows;
        }
        cr_assert_eq(row * row_bytes, c->base.tensors[index].n_bytes);
    }
    mg_targets_release(&t);
    if (layout == MG_LAYOUT_GGUF) set_architecture(c, source);
    return c;
}

Test(arch_targets, hf_to_gguf_and_back_is_the_identity) {
    for (size_t i = 0; i < sizeof tiny / sizeof *tiny; i++) {
        char path[256];
        snprintf(path, sizeof path, MODELS "%s", tiny[i]);
        mg_checkpoint *c;
        mg_model *m = open_path(path, &c), *g;
        memory_checkpoint *gguf = rewrite(m, m->arch, MG_LAYOUT_GGUF, NULL);
        mg_error err = {0};
        cr_assert_eq(mg_model_open(&g, &gguf->base, &err), MG_OK, "%s: %s", tiny[i], error_text(&err));
        expect_same_weights(m, g);
        const mg_bound *q = mg_model_find(g, MG_R_ATTN_Q, 0, 0);
        const mg_view_kind order = mg_arch_row(m->arch, MG_R_ATTN_Q)->forms[MG_LAYOUT_GGUF][0].views[0].kind;
        if (q) cr_assert_eq(q->views[0].kind, order, "%s", tiny[i]);
        for (int k = 0; k < MG_KEY_COUNT; k++) { /* what GGUF can say arrives; floats as float32 */
            if (k == MG_K_ROPE_TYPE && mg_hp_i(m, MG_K_ROPE_TYPE) == MG_ROPE_LLAMA3) break;
            if (k == MG_K_WINDOW || k == MG_K_BOS || k == MG_K_EOS || k == MG_K_PAD) continue;
            cr_assert_eq(m->hp.i[k], g->hp.i[k], "%s %s", tiny[i], mg_key_name((mg_key)k));
            cr_assert_eq((float)m->hp.f[k], (float)g->hp.f[k], "%s %s", tiny[i], mg_key_name((mg_key)k));
        }
        cr_assert(memcmp(m->hp.rope_factors, g->hp.rope_factors, sizeof m->hp.rope_factors) == 0, "%s", tiny[i]);
        /* back to Hugging Face names: the very tensors we started from */
        if (mg_hp_i(m, MG_K_ROPE_TYPE) != MG_ROPE_LLAMA3) {
            memory_checkpoint *hf = rewrite(g, m->arch, MG_LAYOUT_HF, NULL);
            cr_assert_eq(hf->base.n_tensors, c->n_tensors);
            for (uint32_t t = 0; t < c->n_tensors; t++) {
                const mg_tensor *x = &c->tensors[t];
                uint32_t y = mg_checkpoint_find(&hf->base, x->name);
                cr_assert_neq(y, MG_STRMAP_NONE, "%s", x->name);
                uint8_t *data = malloc(x->n_bytes);
                cr_assert_eq(mg_checkpoint_read(c, t, 0, data, x->n_bytes, NULL), MG_OK);
                cr_assert(memcmp(data, hf->data[y], x->n_bytes) == 0, "%s", x->name);
                free(data);
            }
            mg_checkpoint_free(&hf->base);
        } else {
            cr_assert(mg_model_find(g, MG_R_ROPE_FREQS, 0, 0));
            mg_targets t;
            cr_assert_eq(mg_arch_targets(&t, m->arch, &g->hp, g->layers, MG_LAYOUT_HF, mg_model_has, g, &err),
                         MG_ERR_UNSUPPORTED);
            cr_assert(strstr(err.message, "rope_freqs"));
            mg_targets_release(&t);
        }
        mg_model_free(g);
        mg_checkpoint_free(&gguf->base);
        mg_model_free(m);
        mg_checkpoint_free(c);
    }
}

/* ---- the reference converter ---- */

static mg_json *golden(void) {
    mg_json *j;
    cr_assert_eq(mg_json_load(&j, MG_TEST_DATA "/golden/gguf/convert.json", 1 << 24, NULL), MG_OK);
    return j;
}

static void expect_golden_order(mg_model *m, const mg_json *want) {
    mg_targets t;
    mg_error err = {0};
    cr_assert_eq(mg_arch_targets(&t, m->arch, &m->hp, m->layers, MG_LAYOUT_GGUF, mg_model_has, m, &err), MG_OK, "%s",
                 error_text(&err));
    cr_assert_eq(mg_targets_order(&t, m, &err), MG_OK, "%s", error_text(&err));
    const mg_json *tensors = mg_json_get(want, "tensors");
    cr_assert_eq(t.n, mg_json_len(tensors));
    size_t i = 0;
    for (const mg_json *x = mg_json_first(tensors); x; x = mg_json_next(x), i++) {
        cr_assert_str_eq(t.items[i].name, mg_json_key(x), "place %zu", i);
        const mg_json *type = mg_json_first(x), *dims = mg_json_next(type);
        cr_assert_eq(mg_json_len(dims), t.items[i].rank);
        uint32_t d = t.items[i].rank;
        for (const mg_json *n = mg_json_first(dims); n; n = mg_json_next(n)) {
            uint64_t v = 0;
            cr_assert(mg_json_u64(n, &v) && v == t.items[i].shape[--d], "%s", t.items[i].name);
        }
        cr_assert_eq(t.items[i].always_f32, strcmp(mg_json_str(type), "F32") == 0, "%s", t.items[i].name);
    }
    mg_targets_release(&t);
}

static void expect_golden_keys(const mg_model *m, const mg_json *want, uint32_t file_type) {
    mg_kvs kv;
    mg_error err = {0};
    mg_kvs_init(&kv);
    cr_assert_eq(mg_arch_gguf_keys(&kv, m->arch, &m->hp, file_type, &err), MG_OK, "%s", error_text(&err));
    uint32_t i = 0;
    for (const mg_json *x = mg_json_first(mg_json_get(want, "kv")); x; x = mg_json_next(x)) {
        const mg_json *name = mg_json_first(x), *type = mg_json_next(name), *value = mg_json_next(type);
        const char *key = mg_json_str(name);
        if (strncmp(key, "llama.", 6) != 0 && strcmp(key, "general.file_type") != 0) continue;
        cr_assert_lt(i, kv.n);
        cr_assert_str_eq(kv.items[i].key.data, key);
        double a = 0, b = 0;
        cr_assert(mg_kv_f64(&kv.items[i], &a) && mg_json_f64(value, &b) && a == b, "%s: %.17g, not %.17g", key, a, b);
        cr_assert_eq(kv.items[i].type, strcmp(mg_json_str(type), "UINT32") == 0 ? MG_KV_U32 : MG_KV_F32, "%s", key);
        i++;
    }
    cr_assert_eq(i, kv.n);
    mg_kvs_release(&kv);
}

Test(arch_targets, targets_and_keys_stand_as_convert_hf_to_gguf_writes_them) {
    mg_json *g = golden();
    mg_checkpoint *c;
    mg_model *m = open_path(MODELS "donors/prose", &c);
    expect_golden_order(m, mg_json_get(g, "prose-bf16"));
    expect_golden_keys(m, mg_json_get(g, "prose-bf16"), 32);
    mg_model_free(m);
    mg_checkpoint_free(c);

    memory_checkpoint *moe = made_from_config(moe4_config, MG_LAYOUT_HF);
    mg_error err = {0};
    cr_assert_eq(mg_model_open(&m, &moe->base, &err), MG_OK, "%s", error_text(&err));
    expect_golden_order(m, mg_json_get(g, "moe4-q8_0"));
    expect_golden_keys(m, mg_json_get(g, "moe4-q8_0"), 7);
    mg_model_free(m);
    mg_checkpoint_free(&moe->base);
    mg_json_free(g);
}

Test(arch_targets, a_layer_over_two_shards_waits_for_its_last_expert) {
    memory_checkpoint *c =
        made_from_config(MIXTRAL(",\"num_local_experts\":12,\"num_experts_per_tok\":2"), MG_LAYOUT_HF);
    /* experts 7 and up of layer 0, and everything after, lie in the second shard */
    for (uint32_t t = 0; t < c->base.n_tensors; t++) {
        unsigned l = 99, e = 0;
        bool expert = sscanf(c->base.tensors[t].name, "model.layers.%u.block_sparse_moe.experts.%u", &l, &e) == 2;
        if ((expert && l == 0 && e >= 7) || (l != 99 && l > 0)) c->base.tensors[t].file = 1;
    }
    mg_model *m;
    mg_error err = {0};
    mg_targets t;
    cr_assert_eq(mg_model_open(&m, &c->base, &err), MG_OK, "%s", error_text(&err));
    cr_assert_eq(mg_arch_targets(&t, m->arch, &m->hp, m->layers, MG_LAYOUT_GGUF, mg_model_has, m, &err), MG_OK);
    cr_assert_eq(mg_targets_order(&t, m, &err), MG_OK);
    size_t gate = 0, norm = 0, q = 0;
    for (size_t i = 0; i < t.n; i++) {
        if (strcmp(t.items[i].name, "blk.0.ffn_gate_exps.weight") == 0) gate = i;
        if (strcmp(t.items[i].name, "output_norm.weight") == 0) norm = i;
        if (strcmp(t.items[i].name, "blk.0.attn_v.weight") == 0) q = i;
    }
    cr_assert(gate > norm && gate > q, "after all of the first shard");
    cr_assert_str_eq(t.items[gate + 1].name, "blk.0.ffn_down_exps.weight");
    cr_assert_str_eq(t.items[gate + 2].name, "blk.0.ffn_up_exps.weight");
    mg_targets_release(&t);
    mg_model_free(m);
    mg_checkpoint_free(&c->base);
}

Test(arch_targets, rope_factors_are_the_converters) {
    static const struct {
        const char *config;
        uint32_t n, first;
        uint32_t bits[8];
    } cases[] = {
        /* computed by torch as convert_hf_to_gguf does: head size, theta, factor, original context */
        {LLAMA(",\"head_dim\":16,\"rope_theta\":5e5,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,\"low_"
               "freq_factor\":1.0,"
               "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":64}"),
         8,
         0,
         {0x3f800000, 0x401c4dfb, 0x41000000, 0x41000000, 0x41000000, 0x41000000, 0x41000000, 0x41000000}},
        {LLAMA(",\"head_dim\":128,\"rope_theta\":5e5,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,\"low_"
               "freq_factor\":1.0,"
               "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192}"),
         64,
         28,
         {0x3f800000, 0x3f9a8ed5, 0x3fc6d64a, 0x4001af1d, 0x402c732e, 0x406bcace, 0x40a83c06, 0x41000000}},
        {LLAMA(",\"head_dim\":64,\"rope_theta\":5e5,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":32.0,\"low_"
               "freq_factor\":1.0,"
               "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192}"),
         32,
         12,
         {0x3f800000, 0x3f800000, 0x3f800000, 0x3fd35ec2, 0x4052b46f, 0x411aaaee, 0x42000000, 0x42000000}},
    };
    for (size_t i = 0; i < 3; i++) {
        mg_model *m = from_config(cases[i].config);
        float f[64];
        uint32_t bits[64];
        cr_assert_eq(mg_arch_rope_factors(f, cases[i].n, &m->hp, NULL), MG_OK);
        memcpy(bits, f, sizeof bits);
        for (int k = 0; k < 8; k++)
            cr_assert_eq(bits[cases[i].first + k], cases[i].bits[k], "case %zu, %d: %08x", i, k,
                         bits[cases[i].first + k]);
        mg_model_free(m);
    }
}

Test(arch_targets, gguf_losses_are_said) {
    char buf[512];
    mg_checkpoint *c;
    mg_model *m = open_path(MODELS "tiny/mistral_swa", &c);
    cr_assert_eq(mg_arch_gguf_losses(m, buf, sizeof buf), 1);
    cr_assert(strstr(buf, "sliding_window' (8)"), "%s", buf);
    mg_model_free(m);
    mg_checkpoint_free(c);
    m = open_path(MODELS "tiny/mistral", &c);
    cr_assert_eq(mg_arch_gguf_losses(m, buf, sizeof buf), 0, "%s", buf);
    mg_model_free(m);
    mg_checkpoint_free(c);
}

Test(arch_targets, biases_have_no_place_in_a_mixtral) {
    mg_checkpoint *c;
    mg_model *m = open_path(MODELS "tiny/llama_rope_linear", &c);
    mg_json *config;
    mg_model *to;
    mg_targets t;
    mg_error err = {0};
    cr_assert_eq(mg_arch_make_config(&config, mg_arch_find("mixtral"), c->config, &(mg_moe_shape){.experts = 2, .used = 1}, &err), MG_OK);
    cr_assert_eq(mg_model_from_config(&to, config, &err), MG_OK, "%s", error_text(&err));
    cr_assert_eq(mg_arch_targets(&t, to->arch, &to->hp, to->layers, MG_LAYOUT_HF, mg_model_has, m, &err),
                 MG_ERR_UNSUPPORTED);
    cr_assert(strstr(err.message, "attn_q.bias"), "%s", err.message);
    mg_targets_release(&t);
    mg_model_free(to);
    mg_json_free(config);
    mg_model_free(m);
    mg_checkpoint_free(c);
}
