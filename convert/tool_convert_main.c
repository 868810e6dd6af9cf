/* tool_convert_main.c - the program; what it does is in tool_convert.c. */
#include "convert/tool_runs.h"
#include "formats/base/pool.h"

int main(int argc, char **argv) {
    mg_error err = {0};
    mg_tool_info tool = mg_tool_convert_info;
    mg_interrupt_install();
    const mg_status st = mg_tool_convert_run(argc, argv, NULL, &err);
    if (st == MG_ERR_INTERRUPTED || st == MG_ERR_TERMINATED)
        tool.next = "the same command again continues where this one stopped";
    return st == MG_OK ? 0 : mg_tool_fail(&tool, &err);
}
