// The syntax tree of a kernel: what the parser makes of a source and lowering turns into typed code for given dtypes.
#ifndef ZMI_KERNEL_PARSE_H
#define ZMI_KERNEL_PARSE_H

#include "kernel/code_build.h"

enum {
  ZMI_SOURCE_LIMIT = 1 << 18, // bytes of a source
  ZMI_NODE_LIMIT = 1 << 16,   // nodes of its tree
  ZMI_SYMBOL_LIMIT = 4096,    // names
  ZMI_TREE_DEPTH = 200        // nodes inside each other: lowering walks down by recursion
};
#define ZMI_TOO_DEEP "expressions and statements are nested deeper than %d: give parts of it names with 'let'"

typedef enum zmi_token_kind { ZMI_T_END, ZMI_T_NUMBER, ZMI_T_NAME, ZMI_T_SIGN } zmi_token_kind;

// Types as they are written. The first ones are those of code.
typedef enum zmi_wtype {
  ZMI_W_HALF = ZMI_C_COUNT, // float, rounded to float16 when assigned
  ZMI_W_BFLOAT,
  ZMI_W_T,  // of the first float operand
  ZMI_W_I8, // int, cut to one byte or two when assigned
  ZMI_W_U8,
  ZMI_W_I16,
  ZMI_W_U16
} zmi_wtype;

static inline zmi_ctype zmi_written_type(int type) { // what values of a written type are computed in
  return type >= ZMI_W_I8 ? ZMI_C_INT : type >= ZMI_W_HALF ? ZMI_C_FLOAT : (zmi_ctype)type;
}

typedef struct zmi_token {
  zmi_token_kind kind;
  int sign;            // characters of a sign, the first in the low byte: '<' | '<' << 8
  uint32_t begin, end; // in the source
  int type;            // of a number: zmi_ctype
  int64_t whole;
  float real;
} zmi_token;

typedef enum zmi_node_kind {
  ZMI_N_NUMBER,  // token value
  ZMI_N_NAME,    // symbol
  ZMI_N_RIGHT,   // symbol: the right lane's variable in a join
  ZMI_N_UNARY,   // op: sign; a
  ZMI_N_BINARY,  // op: sign; a b
  ZMI_N_CHOICE,  // a ? b : c
  ZMI_N_CAST,    // type; a
  ZMI_N_BITCAST, // type; a
  ZMI_N_CALL,    // op: zmi_cop; a b c
  ZMI_N_REDUCE,  // op: zmi_cop; a
  ZMI_N_INLINE,  // a function: first = declarations of its operands and, op2 1, other statements; a = its value
  ZMI_N_INDEX,   // symbol[a]
  ZMI_N_DIM,     // symbol, op: which
  ZMI_N_GRID,    // op: THREAD, GROUP, THREADS or GROUPS; op2: dim
  ZMI_N_SIMD,    // op: zmi_simd; a b
  ZMI_N_LIMIT,   // numeric_limits<T>: op: which
  // statements
  ZMI_S_DECLARE,  // symbol, type (0: of the value), a
  ZMI_S_ASSIGN,   // symbol, a (compound ones have the operation inside a)
  ZMI_S_STORE,    // symbol[a] = b
  ZMI_S_ATOMIC,   // symbol[a] += b
  ZMI_S_FOR,      // symbol, a first, b bound, c step; op: sign of the comparison; op2: '+', '-', or '*', '/', '<', '>' for steps that scale
  ZMI_S_IF,       // a; first: the branch, second: the other
  ZMI_S_ELEMENTS, // first: statements, second: of the join, if c is 1; op: 1 if places fall
  ZMI_S_SHARED,   // symbol, type, a elements; op2: 1 if each thread has its own
  ZMI_S_BARRIER
} zmi_node_kind;

typedef struct zmi_node {
  uint8_t kind, type, simple; // simple: an IF whose branches may both be computed
  uint8_t reduces;            // an expression with a reduction in it that is not inside another reduction
  uint8_t loads;              // an expression that reads memory
  uint8_t element;            // ROWS: an expression with a value at each place
  uint8_t deferred;           // a statement that waits for the end of its block
  uint16_t depth;
  int32_t op, op2, symbol;
  int32_t a, b, c, first, second, next; // nodes; -1 = none
  int32_t assigned_from, assigned_to;   // in assigned[]: the symbols that a block assigns
  uint32_t begin, end;                  // in the source
  int64_t whole;
  float real;
} zmi_node;

typedef enum zmi_symbol_kind {
  ZMI_Y_INPUT,
  ZMI_Y_OUTPUT,
  ZMI_Y_PARAM,
  ZMI_Y_LEAF,  // op: PLACE, LENGTH, THREAD, ...
  ZMI_Y_CONST, // value: a float; with a type number: an integer
  ZMI_Y_LOCAL,
  ZMI_Y_SHARED,
  ZMI_Y_FUNCTION // number: where its operands begin in the source; type: 0 that of the value; index: the name of its own type, or -1
} zmi_symbol_kind;

typedef struct zmi_symbol {
  const char *name; // not terminated
  uint32_t size;
  uint8_t kind, type;  // type as written: 0 = of its first value
  uint8_t level;       // ROWS: 1 = has a value at each place
  bool whole;          // a parameter that is used as an integer
  bool hidden;         // its scope is closed
  bool fixed;          // a loop counter: not assigned
  bool single;         // memory of one element that is read without a place
  int32_t index;       // of inputs, outputs, parameters; the op of a LEAF
  int32_t known_after; // the ELEMENTS block that makes it; -1
  int32_t assigned_in; // OUTPUT: the block that assigns it; -1 not yet, 0 the row
  float value;
  int64_t number;
} zmi_symbol;

enum { ZMI_GRID_RANK = 3 };

struct zmi_kernel {
  zmi_kernel_facts facts;
  char *source, *lists[3], *names; // names: of facts, each terminated
  char *raw[3];
  zmi_node *nodes;
  size_t node_count, node_capacity;
  zmi_symbol *symbols;
  size_t symbol_count, symbol_capacity;
  int32_t *assigned;
  size_t assigned_count, assigned_capacity;
  int32_t body, value; // first statement; the expression that is result 0, or -1
  int32_t shape[ZMI_KERNEL_OUT][ZM_MAX_RANK], rank[ZMI_KERNEL_OUT];
  int32_t grid[2][ZMI_GRID_RANK], grid_rank[2]; // sizes of groups and of threads
  bool simd;                                    // threads of simdgroups tell each other something
  zm_dtype result[ZMI_KERNEL_OUT], compute;
  int param_type[ZMI_KERNEL_PARAMS]; // written: 0 = by use
  int references;
};

typedef struct zmi_parser {
  zmi_kernel *k;
  const char *name;   // for messages
  const char *source; // what is being read
  uint32_t size, at;
  zmi_token token; // the next one
  uint32_t last_end;
  bool failed;
  bool infer;       // unknown names become inputs
  bool sizes;       // an expression of shapes: dims and parameters only
  int32_t within;   // ROWS: the ELEMENTS block being read (its node + 1), 0 at row level
  int32_t blocks;   // ELEMENTS blocks so far
  int reducing;     // depth of reductions around
  int nested;       // fors and ifs around, inside the ELEMENTS block
  bool joining;     // in a join
  int effects;      // statements and loads so far that an IF must guard
  int depth;        // of recursion
  int inlined;      // functions that are text around
  int left;         // TILES: conditions around whose threads have left
  int loop_depth;   // of the statements in the braces of the innermost loop, 0 elsewhere
  int jump_depth;   // of the statements of a branch that may end with a jump, 0 elsewhere
  bool jump_ends;   // ... with "return", else "continue" and "break"
  bool jump_braces; // ... and that have braces
  bool jumped;      // a jump was read: nothing may stand behind it
  bool once;        // loop_depth is that of "do { } while (0)", which "break" leaves without a word
  int32_t over;     // the variable that says that the innermost loop is left by "break", or -1
  int barriers;     // so far
  size_t scope;     // first symbol of the innermost scope
} zmi_parser;

// ---- macros.c ----
char *zmi_macros(zmi_parser *p, const char *source); // the source with its macros replaced; NULL: failed

// ---- lex.c ----
void zmi_lex(zmi_parser *p); // reads the next token
// Fails with the place: "kernel NAME:LINE:COLUMN: text", the line, and a caret below. The first failure counts.
void zmi_parse_fail(zmi_parser *p, uint32_t begin, uint32_t end, const char *format, ...) __attribute__((format(printf, 4, 5)));
void zmi_show_place(const char *name, const char *source, uint32_t size, uint32_t begin, uint32_t end, const char *message);
bool zmi_token_is(const zmi_parser *p, const char *text); // a name or a sign
bool zmi_take(zmi_parser *p, const char *text);
bool zmi_expect(zmi_parser *p, const char *text, const char *after);

// ---- names.c ----
typedef struct zmi_function {
  const char *name;
  int operands;
  int op;           // zmi_cop, or -1
  const char *text; // a definition in the language: its parameters are a, b, c
} zmi_function;
const zmi_function *zmi_function_find(const char *name, uint32_t size, int operands, bool *known);
int zmi_type_find(const char *name, uint32_t size); // a written type, or -1
int32_t zmi_limit(zmi_parser *p, zmi_token name);   // numeric_limits<type>::max() and the like, after the name
float zmi_limit_of(int which, zm_dtype dtype);      // of a dtype of floats
int32_t zmi_symbol_add(zmi_parser *p, zmi_symbol symbol);
int32_t zmi_symbol_find(const zmi_parser *p, const char *name, uint32_t size); // -1 if there is none
bool zmi_symbols_builtin(zmi_parser *p);
#define ZMI_TYPE_WORDS "bool, char, uchar, short, ushort, int, uint, long, ulong, float, half, bfloat and T"
void zmi_unknown_name(zmi_parser *p, uint32_t begin, uint32_t end, bool function);
void zmi_unknown_word(zmi_parser *p, uint32_t begin, uint32_t end);
bool zmi_is_other_word(const char *name, uint32_t size); // of C's statements, which the language has not
bool zmi_is_reserved(const char *name, uint32_t size);   // a word of the language, or a type: no list of names has it
bool zmi_is_no_input(const char *name, uint32_t size);   // a word, type or constant: a free name like it is a mistake

// ---- parse.c, parse_statement.c ----
int32_t zmi_node_new(zmi_parser *p, zmi_node_kind kind, uint32_t begin);
int32_t zmi_parse_expression(zmi_parser *p);
bool zmi_buffer_in_parentheses(const zmi_parser *p);              // "(name)["
int32_t zmi_parse_statements(zmi_parser *p, const char *closing); // up to "}" or, NULL, the end; -1 if empty
int32_t zmi_parse_statement(zmi_parser *p);                       // -1: nothing, or failed
void zmi_mark_whole(zmi_parser *p, int32_t node);                 // parameters in it are integers
void zmi_node_adopt(zmi_parser *p, int32_t node, int32_t child);  // takes over what is true of a child
int32_t zmi_binary(zmi_parser *p, int op, int32_t a, int32_t b);
size_t zmi_scope_open(zmi_parser *p);
void zmi_scope_close(zmi_parser *p, size_t scope);

// ---- parse_function.c: functions of the source ----
bool zmi_function_ahead(const zmi_parser *p);
void zmi_function_define(zmi_parser *p);
int32_t zmi_function_call(zmi_parser *p, int32_t symbol, const int32_t *list, int n, uint32_t begin);

// ---- parse_tiles.c ----
typedef enum zmi_simd { // functions of the threads of a simdgroup
  ZMI_SIMD_SUM,
  ZMI_SIMD_PRODUCT,
  ZMI_SIMD_MAX,
  ZMI_SIMD_MIN,
  ZMI_SIMD_AND,
  ZMI_SIMD_OR,
  ZMI_SIMD_XOR,
  ZMI_SIMD_ALL,
  ZMI_SIMD_ANY,
  ZMI_SIMD_INCLUSIVE,
  ZMI_SIMD_EXCLUSIVE,
  ZMI_SIMD_FIRST,
  ZMI_SIMD_SHUFFLE,
  ZMI_SIMD_SHUFFLE_XOR,
  ZMI_SIMD_SHUFFLE_UP,
  ZMI_SIMD_SHUFFLE_DOWN
} zmi_simd;
bool zmi_tiles_name(zmi_parser *p, zmi_token name, int32_t *node); // whether it is such a name
bool zmi_tiles_call(zmi_parser *p, zmi_token name, const int32_t *list, int n, int32_t *node);
int32_t zmi_grid_member(zmi_parser *p, zmi_cop op, uint32_t begin, zmi_token which);
int32_t zmi_thread_array(zmi_parser *p, int type, zmi_token name);

#endif
