// What fused ops share: rows of one x made ready for several matrices, and shape rules of their matrices.
#include "patch/fused.h"

zmi_forms zmi_forms_of(zm_dtype x, int64_t rows, int users, const zmi_matrix_attrs *const *matrices) {
  zmi_forms f = {.users = users, .rows = rows, .dtype = x};
  for (int u = 0; u < users; u++) {
    f.form[u] = zmi_ready_of(&matrices[u]->format, x, matrices[u]->k);
    f.kind[u] = -1;
    if (f.form[u].direct) continue;
    int kind = 0;
    while (kind < f.kinds && !zmi_ready_same(&f.form[f.maker[kind]], &f.form[u])) kind++;
    f.kind[u] = kind;
    if (kind < f.kinds) continue;
    f.kinds++;
    f.maker[kind] = u;
    f.offset[kind] = f.bytes;
    f.bytes += f.form[u].bytes * (size_t)rows;
  }
  return f;
}

static int64_t kind_tiles(const zmi_forms *f, int kind) {
  return f->rows * zmi_ready_pieces(&f->form[f->maker[kind]]);
}

int64_t zmi_forms_tiles(const zmi_forms *f) {
  int64_t tiles = 0;
  for (int kind = 0; kind < f->kinds; kind++) tiles += kind_tiles(f, kind);
  return tiles;
}

void zmi_forms_run(const zmi_forms *f, const zmi_kernels *kn, const void *x, void *memory, int64_t begin, int64_t end) {
  for (int kind = 0; kind < f->kinds; kind++) {
    int64_t tiles = kind_tiles(f, kind), first = ZMI_MAX(begin, 0), last = ZMI_MIN(end, tiles);
    if (first < last) zmi_ready_tiles(kn, &f->form[f->maker[kind]], x, f->dtype, (char *)memory + f->offset[kind], first, last);
    begin -= tiles;
    end -= tiles;
  }
}

zmi_rows zmi_forms_rows(const zmi_forms *f, int user, const void *x, const void *memory) {
  const zmi_ready *form = &f->form[user];
  zmi_rows rows = {.form = form, .count = f->rows};
  if (f->kind[user] < 0) {
    rows.ready = x;
    rows.stride = (size_t)form->k * zm_dtype_size(form->dtype);
  } else {
    rows.ready = (const char *)memory + f->offset[f->kind[user]];
    rows.stride = form->bytes;
  }
  return rows;
}

zm_status zmi_want_part(const char *name, const zmi_matrix_attrs *m, int nin, const zmi_type *in, int weight, int bias, int64_t n,
                        int64_t k, int64_t experts) {
  zm_status status = ZM_OK;
  if ((n && m->n != n) || m->k != k || m->experts != experts) {
    status = zmi_fail(ZM_ERROR_ARGUMENT, "%lld matrices of [%lld, %lld], expected %lld of [%lld, %lld]", (long long)m->experts,
                      (long long)m->n, (long long)m->k, (long long)experts, (long long)(n ? n : m->n), (long long)k);
  }
  if (status == ZM_OK) status = zmi_want_matrix(m, nin, in, weight, bias);
  return status == ZM_OK ? ZM_OK : zmi_fail_within("%s", name);
}
