// Actions of zmlx kernel that walk the catalog (kernel_catalog.c). Each gives the exit status.
#ifndef ZMI_CLI_KERNEL_H
#define ZMI_CLI_KERNEL_H

#include "cli/cli.h"

int cli_kernel_list(const cli_args *args);
int cli_kernel_show(const cli_args *args, const char *name);
int cli_kernel_bench(const cli_args *args, const char *name); // NULL: all
int cli_kernel_test(const cli_args *args, const char *name);

#endif
