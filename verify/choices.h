/* choices.h - multiple choice questions: which of several continuations a model finds most likely.
 *
 * Three ways to choose, each with its accuracy:
 *   raw    the largest sum of ln p over the tokens of the continuation (lm-evaluation-harness: acc)
 *   norm   that sum divided by the characters of the choice              (lm-evaluation-harness: acc_norm)
 *   token  the largest mean of ln p over the tokens behind what all choices of the question begin with in common
 *          (llama-perplexity --multiple-choice)
 * Of equal scores the first choice wins. Standard errors are sqrt(a (1 - a) / (n - 1)). */
#ifndef MG_VERIFY_CHOICES_H
#define MG_VERIFY_CHOICES_H

#include "formats/base/json.h"
#include "formats/tokenizer.h"
#include "verify/windows.h"

#define MG_CHOICES_MAX 64u /* of one question */

typedef enum mg_choice_way { MG_CHOICE_RAW, MG_CHOICE_NORM, MG_CHOICE_TOKEN, MG_CHOICE_WAYS } mg_choice_way;
const char *mg_choice_way_name(mg_choice_way w); /* "acc", "acc_norm", "acc_token" */

typedef struct mg_question {
    char *context, *delimiter;
    char **choices;
    uint32_t n, answer; /* choices; the right one */
} mg_question;

typedef struct mg_questions {
    mg_question *items;
    uint64_t n, cap;
    uint64_t choices; /* over all questions */
} mg_questions;

/* JSON lines {"context": S, "choices": [S, ...], "answer": I, "delimiter": S}; the delimiter is a blank when absent,
 * other keys are passed over. MG_ERR_FORMAT names file and line. */
mg_status mg_questions_load(mg_questions *q, const char *path, mg_error *err) MG_MUST_CHECK;
void mg_questions_release(mg_questions *q);

/* One continuation as tokens: window i of the windows made is choice i over all questions. */
typedef struct mg_choice_row {
    uint32_t context; /* tokens in front of the continuation */
    uint32_t shared;  /* tokens that all choices of the question begin with; at least one is left */
    double raw, mean; /* sums of ln p: of the continuation; of what is behind shared */
} mg_choice_row;

/* Every context with every choice behind it as one sequence (BOS first where the tokenizer adds one); rows
 * [q->choices] is malloc'ed. White space at the end of a context belongs to the continuation, as in
 * lm-evaluation-harness. MG_ERR_FORMAT where nothing precedes or nothing is left to score. */
mg_status mg_choice_windows(mg_windows *w, mg_choice_row **rows, const mg_questions *q, const mg_tokenizer *t,
                            mg_error *err) MG_MUST_CHECK;

/* What one model chose. */
typedef struct mg_choice_result {
    uint8_t *chosen[MG_CHOICE_WAYS]; /* [questions] */
    uint64_t right[MG_CHOICE_WAYS];
} mg_choice_result;
mg_status mg_choices_decide(mg_choice_result *r, const mg_questions *q, const mg_choice_row *rows, const mg_windows *w,
                            mg_error *err) MG_MUST_CHECK;
void mg_choice_result_release(mg_choice_result *r);

/* Answers of b against those of a, paired by question. */
typedef struct mg_flips {
    uint64_t n, changed, lost, gained; /* changed: another choice; lost: right in a alone; gained: right in b alone */
    double difference, stderr_;        /* of the accuracies, b minus a: sqrt(((lost + gained) / n - d^2) / (n - 1)) */
    double mcnemar_p;                  /* two-sided exact: were lost and gained equally likely; 1 without flips */
} mg_flips;
mg_flips mg_choice_flips(const mg_questions *q, const mg_choice_result *a, const mg_choice_result *b,
                         mg_choice_way way);

#endif
