/* progress.c - see progress.h. Updates arrive from worker threads, one per unit of a few MiB; a mutex and the clock
 * keep the stream readable. No escape sequences are written: the bar is redrawn with '\r' and blanks, so NO_COLOR and
 * dumb terminals get the same text. */
#include "formats/base/progress.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "formats/base/json.h"

enum { LABEL_MAX = 32, ITEM_MAX = 96, LINE_MAX = 512 };

struct mg_progress {
    pthread_mutex_t lock;
    FILE *to;
    mg_progress_mode mode; /* never AUTO */
    bool bar;              /* redraw one line */
    char label[LABEL_MAX], item[ITEM_MAX];
    const char *unit;              /* NULL: bytes */
    uint64_t total, done, skipped; /* skipped: of done */
    double started, shown;         /* seconds of the monotonic clock; shown 0: nothing written yet */
    size_t drawn;                  /* width of the bar on screen */
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double process_start;
__attribute__((constructor)) static void note_start(void) {
    process_start = now();
}

double mg_elapsed_seconds(void) {
    return now() - process_start;
}

/* VmHWM rather than getrusage: the latter starts from the parent's size at fork. */
uint64_t mg_peak_memory(void) {
    FILE *f = fopen("/proc/self/status", "re");
    char line[256];
    uint64_t kib = 0;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %" SCNu64, &kib) == 1) break;
    if (f) fclose(f);
    struct rusage r;
    if (kib == 0 && getrusage(RUSAGE_SELF, &r) == 0) kib = (uint64_t)r.ru_maxrss;
    return kib * 1024;
}

mg_status mg_progress_parse_mode(const char *text, mg_progress_mode *out, mg_error *err) {
    static const char *const name[] = {"auto", "plain", "json", "none"};
    for (unsigned i = 0; i < 4; i++)
        if (strcmp(text, name[i]) == 0) {
            *out = (mg_progress_mode)i;
            return MG_OK;
        }
    return mg_fail(err, MG_ERR_USAGE, "progress mode '%s': expected auto, plain, json or none", text);
}

const char *mg_human_bytes(uint64_t n, char buf[MG_HUMAN_MAX]) {
    static const char *const unit[] = {"B", "KB", "MB", "GB", "TB", "PB", "EB"};
    double v = (double)n;
    unsigned u = 0;
    while (v >= 999.5 && u < 6) v /= 1000, u++;
    snprintf(buf, MG_HUMAN_MAX, "%.*f %s", u == 0 || v >= 99.95 ? 0 : v >= 9.995 ? 1 : 2, v, unit[u]);
    return buf;
}

/* ---- one line of state ---- */

static void write_json(FILE *to, mg_json *o) {
    mg_error err = {0};
    char *text;
    if (mg_json_print(&text, o, 0, &err) == MG_OK) {
        fprintf(to, "%s\n", text);
        fflush(to);
        free(text);
    }
    mg_json_free(o);
}

static double rate_of(const mg_progress *p, double seconds) {
    return seconds > 0.001 ? (double)(p->done - p->skipped) / seconds : 0;
}

static void show_json(const mg_progress *p, double seconds) {
    mg_json *o = mg_json_new_object();
    mg_json_set_str(o, "event", "progress");
    mg_json_set_str(o, "label", p->label);
    mg_json_set_u64(o, "done", p->done);
    mg_json_set_u64(o, "total", p->total);
    if (p->unit) mg_json_set_str(o, "unit", p->unit);
    mg_json_set_f64(o, "seconds", seconds);
    if (rate_of(p, seconds) > 0 && p->total >= p->done)
        mg_json_set_f64(o, "seconds_left", (double)(p->total - p->done) / rate_of(p, seconds));
    mg_json_set_str(o, "item", p->item);
    write_json(p->to, o);
}

/* An amount of work: "29.4 MB", or "512", "12.3 k" of another unit, which is named once, in the rate. */
static const char *amount(const mg_progress *p, uint64_t n, char buf[MG_HUMAN_MAX]) {
    mg_human_bytes(n, buf);
    size_t end = strlen(buf);
    if (!p->unit) return buf;
    buf[--end] = 0; /* the B of bytes */
    if (end && buf[end - 1] == ' ') buf[end - 1] = 0;
    return buf;
}

/* "merge  42%  1.20 GB of 3.40 GB  120 MB/s  0:32 left  item", "verify  42%  512 of 12.3 K  85 tokens/s  0:32 left" */
static void describe(const mg_progress *p, double seconds, char line[LINE_MAX]) {
    char done[MG_HUMAN_MAX], total[MG_HUMAN_MAX], rate[MG_HUMAN_MAX], left[32] = "";
    const char *unit = p->unit ? p->unit : "", *gap = p->unit ? " " : "";
    double per_second = rate_of(p, seconds);
    amount(p, p->done, done);
    amount(p, p->total, total);
    amount(p, (uint64_t)per_second, rate);
    if (per_second > 0 && p->total > p->done) {
        uint64_t s = (uint64_t)((double)(p->total - p->done) / per_second + 0.5);
        snprintf(left, sizeof left, "  %" PRIu64 ":%02u left", s / 60, (unsigned)(s % 60));
    }
    if (p->total)
        snprintf(line, LINE_MAX, "%s %3.0f%%  %s of %s  %s%s%s/s%s  %s", p->label,
                 100 * (double)p->done / (double)p->total, done, total, rate, gap, unit, left, p->item);
    else
        snprintf(line, LINE_MAX, "%s  %s  %s%s%s/s  %s", p->label, done, rate, gap, unit, p->item);
}

static size_t columns(FILE *to) {
    struct winsize w;
    if (ioctl(fileno(to), TIOCGWINSZ, &w) == 0 && w.ws_col > 10) return w.ws_col;
    return 80;
}

static void show(mg_progress *p) {
    double seconds = now() - p->started;
    p->shown = now();
    if (p->mode == MG_PROGRESS_JSON) {
        show_json(p, seconds);
        return;
    }
    char line[LINE_MAX];
    describe(p, seconds, line);
    if (!p->bar) {
        fprintf(p->to, "%s\n", line);
        fflush(p->to);
        return;
    }
    size_t n = strlen(line), room = columns(p->to) - 1;
    if (n > room) n = room;
    fprintf(p->to, "\r%.*s%*s", (int)n, line, p->drawn > n ? (int)(p->drawn - n) : 0, "");
    fflush(p->to);
    p->drawn = n;
}

/* ---- life ---- */

mg_status mg_progress_new_on(mg_progress **out, mg_progress_mode mode, const char *label, uint64_t total, FILE *to,
                             mg_error *err) {
    mg_progress *p = calloc(1, sizeof *p);
    *out = p;
    if (!p) return mg_fail_nomem(err, sizeof *p);
    pthread_mutex_init(&p->lock, NULL);
    p->to = to;
    p->bar = mode == MG_PROGRESS_AUTO && isatty(fileno(to));
    p->mode = mode == MG_PROGRESS_AUTO ? MG_PROGRESS_PLAIN : mode;
    snprintf(p->label, sizeof p->label, "%s", label);
    p->total = total;
    p->started = p->shown = now();
    return MG_OK;
}

mg_status mg_progress_new(mg_progress **out, mg_progress_mode mode, const char *label, uint64_t total, mg_error *err) {
    return mg_progress_new_on(out, mode, label, total, stderr, err);
}

void mg_progress_unit(mg_progress *p, const char *unit) {
    if (p) p->unit = unit;
}

/* Names come from files: only printable ASCII reaches the stream, and the tail of a long one says more than its head.
 */
static void set_item(mg_progress *p, const char *item) {
    size_t n = strlen(item);
    if (n >= ITEM_MAX) item += n - (ITEM_MAX - 1);
    snprintf(p->item, sizeof p->item, "%s", item);
    for (char *c = p->item; *c; c++)
        if (*c < 0x20 || *c > 0x7E) *c = '?';
}

void mg_progress_add(mg_progress *p, uint64_t done, const char *item) {
    if (!p || p->mode == MG_PROGRESS_NONE) return;
    double every = p->bar ? 0.1 : p->mode == MG_PROGRESS_JSON ? 1 : 10;
    pthread_mutex_lock(&p->lock);
    p->done += done;
    if (item) set_item(p, item);
    if (now() - p->shown >= every) show(p);
    pthread_mutex_unlock(&p->lock);
}

void mg_progress_skip(mg_progress *p, uint64_t done) {
    if (!p || p->mode == MG_PROGRESS_NONE) return;
    pthread_mutex_lock(&p->lock);
    p->done += done;
    p->skipped += done;
    pthread_mutex_unlock(&p->lock);
}

void mg_progress_free(mg_progress *p) {
    if (!p) return;
    if (p->mode == MG_PROGRESS_JSON) show(p); /* a reader of the lines always sees the last state */
    if (p->bar && p->drawn) fprintf(p->to, "\r%*s\r", (int)p->drawn, "");
    fflush(p->to);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

void mg_progress_cost(FILE *to, mg_progress_mode mode, const mg_job_cost *c) {
    uint64_t peak = mg_peak_memory();
    double seconds = mg_elapsed_seconds();
    if (mode == MG_PROGRESS_NONE) return;
    if (mode == MG_PROGRESS_JSON) {
        mg_json *o = mg_json_new_object();
        mg_json_set_str(o, "event", "done");
        mg_json_set_str(o, "label", c->label);
        mg_json_set_u64(o, "bytes_read", c->read);
        mg_json_set_u64(o, "bytes_written", c->written);
        mg_json_set_u64(o, "peak_memory_bytes", peak);
        mg_json_set_f64(o, "seconds", seconds);
        if (c->sha256) mg_json_set_str(o, "sha256", c->sha256);
        write_json(to, o);
        return;
    }
    char r[MG_HUMAN_MAX], w[MG_HUMAN_MAX], m[MG_HUMAN_MAX];
    fprintf(to, "%s: read %s, wrote %s, peak memory %s, %.2f s%s%s\n", c->label, mg_human_bytes(c->read, r),
            mg_human_bytes(c->written, w), mg_human_bytes(peak, m), seconds, c->sha256 ? ", sha256 " : "",
            c->sha256 ? c->sha256 : "");
}
