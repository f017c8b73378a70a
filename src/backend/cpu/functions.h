// The scalar functions of the prelude under the names that the kernels of the tiers use.
#ifndef ZMI_FUNCTIONS_H
#define ZMI_FUNCTIONS_H

#include "backend/cpu/cpu.h"
#include "backend/prelude/numbers.h"
// numbers.h first
#include "backend/prelude/functions.h"

#define zmi_exp1 zk_exp
#define zmi_log1 zk_log
#define zmi_sigmoid1 zk_sigmoid
#define zmi_silu1 zk_silu
#define zmi_tanh1 zk_tanh

#endif
