// Dtypes: names, sizes and the promotion table.
#include "array/array.h"

#include <string.h>

static const struct {
  const char *name;
  size_t size;
} dtypes[ZM_DTYPE_COUNT] = {[ZM_DTYPE_DEFAULT] = {"?", 0},
#define X(dtype, text, bytes) [dtype] = {text, bytes},
                            ZM_DTYPE_LIST(X)
#undef X
};

static const struct {
  const char *name;
  zm_dtype dtype;
} short_names[] = {
    {"u8", ZM_U8},   {"u16", ZM_U16}, {"u32", ZM_U32}, {"u64", ZM_U64},   {"i8", ZM_I8},   {"i16", ZM_I16},
    {"i32", ZM_I32}, {"i64", ZM_I64}, {"f16", ZM_F16}, {"bf16", ZM_BF16}, {"f32", ZM_F32},
};

static bool known(zm_dtype dtype) {
  return (unsigned)dtype < ZM_DTYPE_COUNT;
}

const char *zm_dtype_name(zm_dtype dtype) {
  return known(dtype) ? dtypes[dtype].name : "?";
}

size_t zm_dtype_size(zm_dtype dtype) {
  return known(dtype) ? dtypes[dtype].size : 0;
}

zm_dtype zm_dtype_from_name(const char *name) {
  if (!name) return ZM_DTYPE_DEFAULT;
  for (int i = ZM_BOOL; i < ZM_DTYPE_COUNT; i++) {
    if (strcmp(name, dtypes[i].name) == 0) return (zm_dtype)i;
  }
  for (size_t i = 0; i < ZMI_COUNT(short_names); i++) {
    if (strcmp(name, short_names[i].name) == 0) return short_names[i].dtype;
  }
  return ZM_DTYPE_DEFAULT;
}

// The smallest dtype that holds both; a float wins over every integer, and where no dtype holds both it is float32.
#define B ZM_BOOL
#define U1 ZM_U8
#define U2 ZM_U16
#define U4 ZM_U32
#define U8 ZM_U64
#define I1 ZM_I8
#define I2 ZM_I16
#define I4 ZM_I32
#define I8 ZM_I64
#define H ZM_F16
#define W ZM_BF16
#define F ZM_F32
static const unsigned char promotion[ZM_DTYPE_COUNT][ZM_DTYPE_COUNT] = {
    //         -  bool u8  u16 u32 u64 i8  i16 i32 i64 f16 bf16 f32
    [ZM_BOOL] = {0, B, U1, U2, U4, U8, I1, I2, I4, I8, H, W, F}, [ZM_U8] = {0, U1, U1, U2, U4, U8, I2, I2, I4, I8, H, W, F},
    [ZM_U16] = {0, U2, U2, U2, U4, U8, I4, I4, I4, I8, H, W, F}, [ZM_U32] = {0, U4, U4, U4, U4, U8, I8, I8, I8, I8, H, W, F},
    [ZM_U64] = {0, U8, U8, U8, U8, U8, F, F, F, F, H, W, F},     [ZM_I8] = {0, I1, I2, I4, I8, F, I1, I2, I4, I8, H, W, F},
    [ZM_I16] = {0, I2, I2, I4, I8, F, I2, I2, I4, I8, H, W, F},  [ZM_I32] = {0, I4, I4, I4, I8, F, I4, I4, I4, I8, H, W, F},
    [ZM_I64] = {0, I8, I8, I8, I8, F, I8, I8, I8, I8, H, W, F},  [ZM_F16] = {0, H, H, H, H, H, H, H, H, H, H, F, F},
    [ZM_BF16] = {0, W, W, W, W, W, W, W, W, W, F, W, F},         [ZM_F32] = {0, F, F, F, F, F, F, F, F, F, F, F, F},
};

zm_dtype zm_dtype_promote(zm_dtype a, zm_dtype b) {
  return known(a) && known(b) ? (zm_dtype)promotion[a][b] : ZM_DTYPE_DEFAULT;
}
