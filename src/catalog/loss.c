// Cross entropy of rows of logits.
#include "catalog/ops.h"

// A target that is no class gives NaN, and a gradient of NaN, unless it is the one to be ignored: then the loss and its gradient are 0.
// Both gradients are given: what is derived from the loss goes through the row's largest logit, and where an ignored row holds NaN that
// hands it on, 0 times NaN. c: the row's target.
#define FIRST                                                                                                                              \
  "let nan = 0.0f / 0.0f;\n"                                                                                                               \
  "elements { m = max(logits); c = max(target); }\n"
static zm_status loss_vjp(void *user, const double *parameters, zm_array *const *in, int nin, zm_array *const *out,
                          zm_array *const *cotangents, int nout, zm_array **gradients);
static zm_status grad_vjp(void *user, const double *parameters, zm_array *const *in, int nin, zm_array *const *out,
                          zm_array *const *cotangents, int nout, zm_array **gradients);
static zmi_definition cross_entropy_def = {.name = "softmax_cross_entropy",
                                           .form = ZMI_FORM_ROWS,
                                           .inputs = "logits target",
                                           .outputs = "loss",
                                           .parameters = "int ignored",
                                           .source = FIRST "elements { s = sum(exp(logits - m)); t = sum(i == c ? logits : 0.0f); }\n"
                                                           "let known = c >= 0 && c < D ? 1.0f : nan;\n"
                                                           "loss = c == ignored ? 0.0f : known * ((m - t) + log(s));",
                                           .result = {ZM_F32},
                                           .vjp = loss_vjp};
static zmi_definition cross_entropy_grad_def = {
    .name = "softmax_cross_entropy_grad",
    .form = ZMI_FORM_ROWS,
    .inputs = "logits target g",
    .outputs = "dx",
    .parameters = "int ignored",
    .source = FIRST "elements { s = sum(exp(logits - m)); }\n"
                    "let known = c >= 0 && c < D;\n"
                    "elements { dx = c == ignored ? 0.0f : (known ? g : nan) * (exp(logits - m) / s - (i == c ? 1.0f : 0.0f)); }",
    .vjp = grad_vjp};
// Of the gradient g (p - one_hot) with cotangent u, p = softmax(logits): dx = g p (u - sum p u), and dg = u (p - one_hot), g being as
// wide as the row here.
static zmi_definition cross_entropy_second_def = {
    .name = "softmax_cross_entropy_second",
    .form = ZMI_FORM_ROWS,
    .inputs = "logits target g u",
    .outputs = "dx dg",
    .parameters = "int ignored",
    .source = FIRST "elements { s = sum(exp(logits - m)); }\n"
                    "elements { a = sum(exp(logits - m) / s * u); }\n"
                    "let known = c >= 0 && c < D ? 1.0f : nan;\n"
                    "elements {\n"
                    "  let p = exp(logits - m) / s;\n"
                    "  dx = c == ignored ? 0.0f : known * g * p * (u - a);\n"
                    "  dg = c == ignored ? 0.0f : known * u * (p - (i == c ? 1.0f : 0.0f));\n"
                    "}",
    .result = {ZM_DTYPE_DEFAULT, ZM_F32}};

static zm_status loss_vjp(void *user, const double *parameters, zm_array *const *in, int nin, zm_array *const *out,
                          zm_array *const *cotangents, int nout, zm_array **gradients) {
  (void)user, (void)nin, (void)out, (void)nout;
  zm_array *operands[] = {in[0], in[1], zm_expand_dims(cotangents[0], -1)};
  gradients[0] = zmi_definition_apply1(&cross_entropy_grad_def, operands, 3, parameters, 1);
  return gradients[0] ? ZM_OK : zm_last_status();
}

static zm_status grad_vjp(void *user, const double *parameters, zm_array *const *in, int nin, zm_array *const *out,
                          zm_array *const *cotangents, int nout, zm_array **gradients) {
  (void)user, (void)nin, (void)out, (void)nout;
  zm_array *operands[] = {in[0], in[1], in[2], cotangents[0]}, *made[2];
  zm_status status = zmi_definition_apply(&cross_entropy_second_def, operands, 4, parameters, 1, made, 2);
  if (status == ZM_OK) gradients[0] = made[0], gradients[2] = made[1];
  return status;
}

static bool good(const char *name, zm_array *logits, zm_array *targets) {
  char found[128];
  if (!zmi_cat_want_float(name, "logits", logits) || !zmi_cat_want_rank(name, "logits", logits, 1)) return false;
  if (!zmi_cat_want_rank(name, "targets", targets, 0)) return false;
  bool same = targets->type.rank == logits->type.rank - 1;
  for (int i = 0; same && i < targets->type.rank; i++) same = targets->type.shape[i] == logits->type.shape[i];
  if (!same) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: targets: expected one for each row of logits, found %s", name, zmi_type_text(&targets->type, found));
    return false;
  }
  return true;
}

// Targets as int32 [..., 1].
static zm_array *column(const char *name, zm_array *targets) {
  return zm_expand_dims(zmi_cat_indices(name, "targets", targets), -1);
}

zm_array *zm_softmax_cross_entropy(zm_array *logits, zm_array *targets, int32_t ignore_index) {
  const char *name = "softmax_cross_entropy";
  if (!good(name, logits, targets)) return NULL;
  return zmi_definition_apply1(&cross_entropy_def, (zm_array *[]){logits, column(name, targets)}, 2, (double[]){ignore_index}, 1);
}

zm_array *zm_softmax_cross_entropy_grad(zm_array *logits, zm_array *targets, zm_array *g, int32_t ignore_index) {
  const char *name = "softmax_cross_entropy_grad";
  if (!good(name, logits, targets) || !zmi_cat_want_float(name, "g", g)) return NULL;
  zm_array *in[] = {logits, column(name, targets), zm_expand_dims(zm_astype(g, ZM_F32), -1)};
  return zmi_definition_apply1(&cross_entropy_grad_def, in, 3, (double[]){ignore_index}, 1);
}

static zm_status loss_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  (void)nin;
  out[0] = zm_softmax_cross_entropy(in[0], in[1], (int32_t)params[0].whole);
  return out[0] ? ZM_OK : zm_last_status();
}

static zm_status grad_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  (void)nin;
  out[0] = zm_softmax_cross_entropy_grad(in[0], in[1], in[2], (int32_t)params[0].whole);
  return out[0] ? ZM_OK : zm_last_status();
}

static const zmi_entry entries[] = {
    {.name = "softmax_cross_entropy",
     .formula = "ln sum e^logits - logits[target], float32; 0 for the ignored target, NaN for one that is no class",
     .shapes = "logits [..., V], targets [...] -> [...]",
     .dtypes = "logits float16, bfloat16, float32; targets integers; float32",
     .gradient = "logits",
     .parameters = "ignore_index=-1 integer -2147483648..",
     .definition = &cross_entropy_def,
     .sample = "logits 128 32000; targets 128 int32 < 32000",
     .call = loss_call},
    {.name = "softmax_cross_entropy_grad",
     .formula = "g (softmax(logits) - one_hot(target)); 0 for the ignored target",
     .shapes = "logits [..., V], targets [...], g [...] -> [..., V]",
     .dtypes = "logits float16, bfloat16, float32; targets integers; g float32",
     .gradient = "logits g",
     .parameters = "ignore_index=-1 integer -2147483648..",
     .definition = &cross_entropy_grad_def,
     .sample = "logits 128 32000; targets 128 int32 < 32000; g 128 float32",
     .call = grad_call},
};

ZMI_GROUP(loss, "Cross entropy.");
