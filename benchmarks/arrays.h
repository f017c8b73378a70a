// Operations of arrays as rows that the server of catalog.c times, in the form of rows of the catalog.
#ifndef BENCHMARKS_ARRAYS_H
#define BENCHMARKS_ARRAYS_H

#include "catalog/catalog.h"

size_t array_row_count(void);
const zmi_entry *array_row(size_t i);
// Operands as the row's sample says; floats are evenly distributed in -1..1, the first operand of "sorted" rows is sorted.
int array_row_operands(const zmi_entry *row, zm_array **in);

#endif
