/* interrupt.c - the first SIGINT or SIGTERM asks the job to stop between two units; a second SIGINT ends the process at
 * once, which is safe at any point (outfile.h). */
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "formats/base/pool.h"

static atomic_int interrupted; /* 0, 130 or 143: a shell's exit status for the signal */

static void on_signal(int sig) {
    int expected = 0;
    bool first = atomic_compare_exchange_strong(&interrupted, &expected, 128 + sig);
    if (!first && sig == SIGINT) _exit(MG_ERR_INTERRUPTED);
}

int mg_interrupted(void) {
    return atomic_load_explicit(&interrupted, memory_order_relaxed);
}

void mg_interrupt_install(void) {
    struct sigaction sa;
    memset(&sa, 0, sizeof sa);
    sa.sa_handler = on_signal;
    sa.sa_flags = SA_RESTART;
    sigemptyset(&sa.sa_mask);
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    /* a closed pipe or a file size limit is an error of the call that met it, not the end of the job */
    sa.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &sa, NULL);
    sigaction(SIGXFSZ, &sa, NULL);
}
