// Actions of zmlx kernel that walk the catalog (kernel_catalog.c, kernel_test.c). Each gives the exit status.
#ifndef ZMI_CLI_KERNEL_H
#define ZMI_CLI_KERNEL_H

#include "catalog/catalog.h"
#include "cli/cli.h"

const char *cli_kernel_action(size_t i);                     // "list", ...; NULL past the end
int cli_kernel_list(const cli_args *args, const char *name); // NULL: all
int cli_kernel_show(const cli_args *args, const char *name);
zm_status cli_kernel_print(const zmi_code *code, const cli_args *args, zmi_text *out); // for the target that is asked for
int cli_kernel_bench(const cli_args *args, const char *name);                          // NULL: all
int cli_kernel_test(const cli_args *args, const char *name);

// What NAME of bench and test picks: one kernel, the kernels of a group, or all if it is NULL. False after a message.
typedef struct cli_kernel_choice {
  const zmi_entry *entry;
  const zmi_catalog_group *group;
} cli_kernel_choice;
bool cli_kernel_choose(const char *name, cli_kernel_choice *c);
bool cli_kernel_is_chosen(const cli_kernel_choice *c, const zmi_entry *e, const zmi_catalog_group *group);

// A row with the operands of its sample, evaluated, in the current scope.
typedef struct cli_kernel_call {
  const zmi_entry *e;
  zm_array *in[ZMI_CATALOG_IN], *out[ZMI_CATALOG_OUT];
  double params[ZMI_CATALOG_PARAMS];
  int nin, nout;
} cli_kernel_call;
// Why a kernel of a tape that was played is interpreted; "": none is.
enum { CLI_KERNEL_WHY = 340 };
void cli_kernel_not_compiled(const zmi_tape *t, char why[CLI_KERNEL_WHY]);
zm_status cli_kernel_prepare(cli_kernel_call *c, const zmi_entry *e, zm_dtype dtype, int64_t elements);

// Digests of the results of every row's sample, as kernel_test.c makes them, for float32, float16 and bfloat16 (kernel_results.c, made by
// scripts/make_kernel_results.py).
enum { CLI_KERNEL_DTYPES = 3 };
typedef struct cli_kernel_result {
  const char *name;
  uint64_t digest[CLI_KERNEL_DTYPES];
} cli_kernel_result;
extern const cli_kernel_result cli_kernel_results[]; // ends with a NULL name

#endif
