// Actions of zmlx kernel over the catalog.
#include "cli/kernel.h"

static int none(void) {
  cli_error("the catalog is empty");
  return CLI_FAILURE;
}
int cli_kernel_list(const cli_args *args) { return (void)args, none(); }
int cli_kernel_show(const cli_args *args, const char *name) { return (void)args, (void)name, none(); }
int cli_kernel_bench(const cli_args *args, const char *name) { return (void)args, (void)name, none(); }
int cli_kernel_test(const cli_args *args, const char *name) { return (void)args, (void)name, none(); }
