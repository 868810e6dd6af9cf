/* tool_extract_main.c - the program; what it does is in tool_extract.c. */
#include "convert/tool_runs.h"
#include "formats/base/pool.h"

int main(int argc, char **argv) {
    mg_error err = {0};
    mg_interrupt_install();
    const mg_status st = mg_tool_extract_run(argc, argv, NULL, &err);
    return st == MG_OK ? 0 : mg_tool_fail(&mg_tool_extract_info, &err);
}
