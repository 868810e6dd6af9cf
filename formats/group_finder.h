/* group_finder.h - what the layout functions share while they describe one weight: its parts by name, and checks of
 * sizes against each other. Private to group_layouts*.c.
 *
 * Every check fails with MG_ERR_FORMAT and names the tensor, what was found and what was expected. */
#ifndef MG_FORMATS_GROUP_FINDER_H
#define MG_FORMATS_GROUP_FINDER_H

#include "formats/group_layouts.h"

/* What a layout function works on. */
typedef struct finder {
    mg_group_layout *l;
    mg_checkpoint *c;
    mg_group_matrix *m; /* being described */
    const char *base;   /* name of the tensor of codes, its suffix removed */
    uint32_t at;        /* tensor of codes */
} mg_group_finder;

/* The data file of tensor t, for messages. */
const char *mg_group_file_of(const mg_checkpoint *c, uint32_t t);
/* st, after naming tensor t as the place of the error if it is one. */
mg_status mg_group_at(const mg_group_finder *f, uint32_t t, mg_status st, mg_error *err) MG_MUST_CHECK;
mg_status mg_group_expect_dtype(const mg_group_finder *f, uint32_t t, mg_dtype want, mg_error *err) MG_MUST_CHECK;
mg_status mg_group_expect_shape2(const mg_group_finder *f, uint32_t t, uint64_t a, uint64_t b,
                                 mg_error *err) MG_MUST_CHECK;
/* This many dimensions, none of them 0. */
mg_status mg_group_expect_rank(const mg_group_finder *f, uint32_t t, uint32_t rank, mg_error *err) MG_MUST_CHECK;

/* Tensor base + suffix, hidden from now on. Absent: MG_STRMAP_NONE, or MG_ERR_FORMAT when it is required. */
mg_status mg_group_part(mg_group_finder *f, const char *suffix, bool required, uint32_t *out,
                        mg_error *err) MG_MUST_CHECK;
/* Hide base + suffix for each of the suffixes (ended by NULL) that is there. */
mg_status mg_group_hide(mg_group_finder *f, const char *const *suffixes, mg_error *err) MG_MUST_CHECK;
/* Hide scales of quantized activations: they belong to the run, not to the weight. base ends in ".weight", and loses
 * it. */
mg_status mg_group_hide_activations(mg_group_finder *f, mg_error *err) MG_MUST_CHECK;

/* Name the dense weight base + suffix. */
mg_status mg_group_name(mg_group_finder *f, const char *suffix, mg_error *err) MG_MUST_CHECK;
void mg_group_set_shape2(mg_group_matrix *m, uint64_t rows, uint64_t cols);
/* Codes in dimension dim of the tensor of codes: its words * 32 / bits, which must come out whole. */
mg_status mg_group_unpacked(const mg_group_finder *f, unsigned dim, uint32_t bits, uint64_t *out,
                            mg_error *err) MG_MUST_CHECK;
/* Groups of `size` columns (0: all of them). whole: a smaller last group is refused. */
mg_status mg_group_set_groups(mg_group_finder *f, uint64_t size, bool whole, mg_error *err) MG_MUST_CHECK;
/* t holds the scales, `rows` rows of them; its element type must be a float. */
mg_status mg_group_set_scales(mg_group_finder *f, uint32_t t, uint64_t rows, bool rows_last,
                              mg_error *err) MG_MUST_CHECK;
/* Scales of [row block][group] in t. row_block 0: one scale for the tensor, or one per row. A whole-row scale may drop
 * its last dimension. Groups are set before. */
mg_status mg_group_row_major_scales(mg_group_finder *f, uint32_t t, uint64_t row_block, mg_error *err) MG_MUST_CHECK;
/* Describe codes of one byte each: FP8 and int8, of two or more dimensions. */
mg_status mg_group_byte_codes(mg_group_finder *f, mg_error *err) MG_MUST_CHECK;

/* Describe a weight of compressed-tensors. packed: its codes are X.weight_packed, else X.weight. */
mg_status mg_group_find_ct(mg_group_finder *f, bool packed, mg_error *err) MG_MUST_CHECK;

#endif
