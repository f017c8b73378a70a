// Raw sources: the author's body of a function for each backend, put into a frame that gives its operands by name.
#include "kernel/emit.h"

#include <string.h>

// The first line of a raw source: "//! inputs ; outputs ; parameters", a # in front of int ones. Gives the names in that order and the body
// behind it.
static const char *read_names(const char *raw, const char *names[2 * ZMI_CODE_MAX], int sizes[2 * ZMI_CODE_MAX], int most) {
  int n = 0;
  const char *p = raw;
  if (strncmp(p, "//!", 3) != 0 || most > 2 * ZMI_CODE_MAX) return NULL;
  for (p += 3; *p && *p != '\n';) {
    size_t size = strcspn(p, " ;\n");
    if (size == 0) {
      p++;
      continue;
    }
    if (n == most) return NULL;
    names[n] = p;
    sizes[n++] = (int)size;
    p += size;
  }
  return *p && n == most ? p + 1 : NULL;
}

typedef struct raw {
  const zmi_code *code;
  const char *body, *names[2 * ZMI_CODE_MAX];
  int sizes[2 * ZMI_CODE_MAX];
} raw;

// C: the body runs once for each threadgroup, whose threads are its own loops.
static void frame_c(const raw *r, zmi_text *out) {
  const zmi_code *c = r->code;
  zmi_text_add(out,
               "void zk_groups(zk_long first_, zk_long last_, zk_long groups, zk_long threads, const void *const *in_, void *const *out_,\n"
               "               const zk_long *dims_, const zk_long *counts_, const double *params_) {\n"
               "  for (zk_long group = first_; group < last_; group++) {\n");
  for (int i = 0; i < c->nin + c->nout; i++) {
    const bool input = i < c->nin;
    const char *memory = zmi_emit_memory(input ? c->in[i] : c->out[i - c->nin]), *name = r->names[i];
    zmi_text_add(out, "    %s%s *%.*s = (%s%s *)%s[%d];\n", input ? "const " : "", memory, r->sizes[i], name, input ? "const " : "", memory,
                 input ? "in_" : "out_", input ? i : i - c->nin);
    zmi_text_add(out, "    const zk_long *%.*s_dims = dims_ + %d;\n    const zk_long %.*s_size = counts_[%d];\n", r->sizes[i], name,
                 i * ZM_MAX_RANK, r->sizes[i], name, i);
  }
  for (int i = 0; i < c->nparams; i++) {
    const char *name = r->names[c->nin + c->nout + i];
    const int size = r->sizes[c->nin + c->nout + i], whole = name[0] == '#';
    zmi_text_add(out, "    const %s %.*s = %s(params_[%d]);\n", whole ? "zk_int" : "zk_float", size - whole, name + whole,
                 whole ? "(zk_int)" : "(zk_float)", i);
  }
  char title[64];
  zmi_emit_title(c, title);
  zmi_text_add(out, "    {\n#line 1 \"%s\"\n%s\n    }\n  }\n}\n", title, r->body);
}

static void frame_gpu(const raw *r, zmi_target target, zmi_text *out) {
  const zmi_code *c = r->code;
  const bool metal = target == ZMI_TARGET_METAL;
  zmi_emit_call_struct(c, out);
  zmi_text_add(out, metal ? "kernel void zk_groups(" : "extern \"C\" __global__ void zk_groups(");
  for (int i = 0; i < c->nin + c->nout; i++) {
    const bool input = i < c->nin;
    zmi_text_add(out, "%s%s%s *%.*s", metal ? "device " : "", input ? "const " : "", zmi_emit_memory(input ? c->in[i] : c->out[i - c->nin]),
                 r->sizes[i], r->names[i]);
    if (metal) zmi_text_add(out, " [[buffer(%d)]]", i);
    zmi_text_add(out, ", ");
  }
  if (metal)
    zmi_text_add(out,
                 "constant zk_call &call [[buffer(%d)]],\n    uint3 thread_position_in_threadgroup [[thread_position_in_threadgroup]],\n"
                 "    uint3 threads_per_threadgroup [[threads_per_threadgroup]],\n"
                 "    uint3 threadgroup_position_in_grid [[threadgroup_position_in_grid]],\n"
                 "    uint3 threadgroups_per_grid [[threadgroups_per_grid]]) {\n",
                 c->nin + c->nout);
  else
    zmi_text_add(out, "const zk_call call) {\n");
  for (int i = 0; i < c->nin + c->nout; i++)
    zmi_text_add(out, "  %s zk_long *%.*s_dims = call.dims + %d;\n  const zk_long %.*s_size = call.counts[%d];\n",
                 metal ? "constant" : "const", r->sizes[i], r->names[i], i * ZM_MAX_RANK, r->sizes[i], r->names[i], i);
  for (int i = 0; i < c->nparams; i++) {
    const char *name = r->names[c->nin + c->nout + i];
    const int size = r->sizes[c->nin + c->nout + i], whole = name[0] == '#';
    zmi_text_add(out, "  const %s %.*s = call.params[%d].%s;\n", whole ? "zk_int" : "zk_float", size - whole, name + whole, i,
                 whole ? "i" : "f");
  }
  zmi_text_add(out, "  {\n%s\n  }\n}\n", r->body);
}

zm_status zmi_emit_raw(const zmi_code *code, zmi_target target, zmi_text *out) {
  raw r = {.code = code};
  const char *text = code->raw[target];
  if (!text) return zmi_fail(ZM_ERROR_UNSUPPORTED, "kernel %s: it has no source for %s", code->name, zmi_target_names[target]);
  r.body = read_names(text, r.names, r.sizes, code->nin + code->nout + code->nparams);
  if (!r.body) return zmi_fail(ZM_ERROR_FORMAT, "kernel %s: its raw source does not name its operands", code->name);
  if (target == ZMI_TARGET_C)
    frame_c(&r, out);
  else
    frame_gpu(&r, target, out);
  return ZM_OK;
}
