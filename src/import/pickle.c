/* Python's Lib/pickletools.py describes the opcodes; torch.save writes protocol 2, other savers up to 5. The values that a pickle builds take at
 * most one place an opcode, so memory is bounded by the file, and nothing here recurses. */
#include "import/pickle.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"

enum { MARK = -1 };

typedef struct machine {
    pickle *p;
    const uint8_t *bytes;
    size_t count, at;
    const char *file;
    status *st;
    int32_t *stack, *memo;
    int32_t depth, stack_room, memo_room;
} machine;

/* ---- names that may stand in a checkpoint ---- */

static const struct { const char *module, *name; pickle_name is; int type; } names[] = {
    {"collections", "OrderedDict", NAME_ORDERED_DICT, 0},
    {"torch._utils", "_rebuild_tensor_v2", NAME_TENSOR_V2, 0},
    {"torch._utils", "_rebuild_tensor_v3", NAME_TENSOR_V3, 0},
    {"torch._utils", "_rebuild_parameter", NAME_PARAMETER, 0},
    {"torch", "FloatStorage", NAME_STORAGE, TYPE_F32},
    {"torch", "HalfStorage", NAME_STORAGE, TYPE_F16},
    {"torch", "BFloat16Storage", NAME_STORAGE, TYPE_BF16},
    {"torch", "DoubleStorage", NAME_STORAGE, TYPE_F64},
    {"torch", "LongStorage", NAME_STORAGE, TYPE_I64},
    {"torch", "IntStorage", NAME_STORAGE, TYPE_I32},
    {"torch", "ShortStorage", NAME_STORAGE, TYPE_I16},
    {"torch", "CharStorage", NAME_STORAGE, TYPE_I8},
    {"torch", "ByteStorage", NAME_STORAGE, TYPE_U8},
    {"torch", "BoolStorage", NAME_STORAGE, TYPE_BOOL},
    {"torch.storage", "UntypedStorage", NAME_STORAGE, -1},
    {"torch", "float32", NAME_DTYPE, TYPE_F32},
    {"torch", "float16", NAME_DTYPE, TYPE_F16},
    {"torch", "bfloat16", NAME_DTYPE, TYPE_BF16},
    {"torch", "float64", NAME_DTYPE, TYPE_F64},
    {"torch", "int64", NAME_DTYPE, TYPE_I64},
    {"torch", "int32", NAME_DTYPE, TYPE_I32},
    {"torch", "uint8", NAME_DTYPE, TYPE_U8},
    {"torch", "float8_e4m3fn", NAME_DTYPE, TYPE_F8_E4M3},
    {"torch", "uint16", NAME_DTYPE, -1},
    {"torch", "uint32", NAME_DTYPE, -1},
    {"torch", "uint64", NAME_DTYPE, -1},
    {"torch", "float8_e5m2", NAME_DTYPE, -1},
    /* what trainers leave beside the weights */
    {"torch", "Size", NAME_INERT, 0},
    {"torch", "device", NAME_INERT, 0},
    {"numpy.core.multiarray", "scalar", NAME_INERT, 0},
    {"numpy._core.multiarray", "scalar", NAME_INERT, 0},
    {"numpy", "dtype", NAME_INERT, 0},
    {"_codecs", "encode", NAME_INERT, 0},
    {"argparse", "Namespace", NAME_INERT, 0},
    {"pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint", NAME_INERT, 0},
    {"pytorch_lightning.callbacks.early_stopping", "EarlyStopping", NAME_INERT, 0},
    {"pytorch_lightning.utilities.parsing", "AttributeDict", NAME_INERT, 0},
};

/* ---- errors, memory ---- */

static bool bad(machine *m, const char *why)
{
    return status_set(m->st, STATUS_BAD_FILE, "%s: its pickle is malformed at byte %zu: %s", m->file, m->at, why);
}

static bool grow(machine *m, void *array, int32_t used, int32_t *room, size_t size)
{
    void *p;
    if (used < *room)
        return true;
    memcpy(&p, array, sizeof p);
    int32_t more = *room ? *room * 2 : 256; /* used counts opcodes of at most PICKLE_MOST_BYTES: no overflow */
    p = mem_resize(p, (size_t)more, size, "pickle", m->st);
    if (!p)
        return false;
    memcpy(array, &p, sizeof p);
    *room = more;
    return true;
}

static bool push_number(machine *m, int32_t n)
{
    if (!grow(m, &m->stack, m->depth, &m->stack_room, sizeof *m->stack))
        return false;
    m->stack[m->depth++] = n;
    return true;
}

static bool push(machine *m, pickle_value v)
{
    pickle *p = m->p;
    if (!grow(m, &p->value, p->values, &p->value_room, sizeof *p->value))
        return false;
    p->value[p->values] = v;
    return push_number(m, p->values++);
}

static bool push_kind(machine *m, pickle_kind kind) { return push(m, (pickle_value){.kind = (uint8_t)kind, .first = -1, .last = -1}); }

/* The topmost value, or an error. */
static bool pop(machine *m, int32_t *n)
{
    if (m->depth == 0 || m->stack[m->depth - 1] == MARK)
        return bad(m, "its stack is empty");
    *n = m->stack[--m->depth];
    return true;
}

static bool find_mark(machine *m, int32_t *at)
{
    for (*at = m->depth - 1; *at >= 0; --*at)
        if (m->stack[*at] == MARK)
            return true;
    return bad(m, "a mark is missing");
}

static bool add_link(machine *m, int32_t container, int32_t key, int32_t value)
{
    pickle *p = m->p;
    if (!grow(m, &p->link, p->links, &p->link_room, sizeof *p->link))
        return false;
    p->link[p->links] = (pickle_link){key, value, -1};
    pickle_value *c = &p->value[container];
    if (c->last >= 0)
        p->link[c->last].next = p->links;
    else
        c->first = p->links;
    c->last = p->links++;
    return true;
}

/* ---- reading the bytes ---- */

static bool take(machine *m, size_t n, const uint8_t **p)
{
    if (n > m->count - m->at)
        return bad(m, "it ends early");
    *p = m->bytes + m->at;
    m->at += n;
    return true;
}

static bool number(machine *m, int bytes, uint64_t *n)
{
    const uint8_t *p = NULL;
    *n = 0;
    if (!take(m, (size_t)bytes, &p))
        return false;
    for (int i = bytes - 1; i >= 0; i--)
        *n = *n << 8 | p[i];
    return true;
}

static bool text(machine *m, int length_bytes)
{
    uint64_t n;
    const uint8_t *p = NULL;
    if (!number(m, length_bytes, &n))
        return false;
    size_t at = m->at;
    return take(m, n > SIZE_MAX ? SIZE_MAX : (size_t)n, &p) &&
           push(m, (pickle_value){.kind = PICKLE_TEXT, .first = -1, .last = -1, .as.text = {(uint32_t)at, (uint32_t)n}});
}

static bool integer(machine *m, int64_t n) { return push(m, (pickle_value){.kind = PICKLE_INT, .first = -1, .last = -1, .as.number = n}); }

static bool long_integer(machine *m, int length_bytes)
{
    uint64_t n, bits = 0;
    const uint8_t *p = NULL;
    if (!number(m, length_bytes, &n) || !take(m, n > SIZE_MAX ? SIZE_MAX : (size_t)n, &p))
        return false;
    if (n > 8)
        return push_kind(m, PICKLE_OPAQUE); /* too large for any size or offset */
    for (size_t i = 0; i < n; i++)
        bits |= (uint64_t)p[i] << 8 * i;
    if (n > 0 && n < 8 && p[n - 1] & 0x80)
        bits |= ~(uint64_t)0 << 8 * n;
    return integer(m, (int64_t)bits);
}

/* ---- names and calls ---- */

static bool unknown_name(machine *m, const uint8_t *module, size_t module_bytes, const uint8_t *name, size_t bytes)
{
    return status_set(m->st, STATUS_BAD_FILE, "%s: its pickle wants %.*s.%.*s, which no table of weights needs; it was not executed", m->file,
                      (int)(module_bytes < 100 ? module_bytes : 100), (const char *)module, (int)(bytes < 100 ? bytes : 100), (const char *)name);
}

static bool same(const uint8_t *p, size_t bytes, const char *text) { return strlen(text) == bytes && memcmp(p, text, bytes) == 0; }

static bool push_name(machine *m, const uint8_t *module, size_t module_bytes, const uint8_t *name, size_t bytes)
{
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (same(module, module_bytes, names[i].module) && same(name, bytes, names[i].name))
            return push(m, (pickle_value){.kind = PICKLE_NAME, .name = (uint8_t)names[i].is, .first = -1, .last = -1, .as.number = names[i].type});
    return unknown_name(m, module, module_bytes, name, bytes);
}

static bool line(machine *m, const uint8_t **p, size_t *bytes)
{
    const uint8_t *end = m->at < m->count ? memchr(m->bytes + m->at, '\n', m->count - m->at) : NULL;
    *p = m->bytes + m->at;
    if (!end)
        return bad(m, "a name does not end");
    *bytes = (size_t)(end - *p);
    m->at += *bytes + 1;
    return true;
}

static bool global(machine *m)
{
    const uint8_t *module, *name;
    size_t module_bytes = 0, bytes = 0;
    return line(m, &module, &module_bytes) && line(m, &name, &bytes) && push_name(m, module, module_bytes, name, bytes);
}

static bool stack_global(machine *m)
{
    int32_t name, module;
    if (!pop(m, &name) || !pop(m, &module))
        return false;
    const pickle_value *a = &m->p->value[module], *b = &m->p->value[name];
    if (a->kind != PICKLE_TEXT || b->kind != PICKLE_TEXT)
        return bad(m, "a name is no text");
    return push_name(m, m->bytes + a->as.text.at, a->as.text.length, m->bytes + b->as.text.at, b->as.text.length);
}

/* REDUCE and NEWOBJ: a listed name "called" with a tuple. What it would make is written down, nothing more. */
static bool call(machine *m)
{
    int32_t arguments, callee;
    if (!pop(m, &arguments) || !pop(m, &callee))
        return false;
    const pickle_value *f = &m->p->value[callee];
    if (f->kind != PICKLE_NAME)
        return bad(m, "it calls what is no name");
    if (m->p->value[arguments].kind != PICKLE_TUPLE)
        return bad(m, "a call's arguments are no tuple");
    pickle_value made = {.kind = PICKLE_OPAQUE, .first = -1, .last = -1};
    switch (f->name) {
    case NAME_ORDERED_DICT:
        if (m->p->value[arguments].first >= 0)
            return bad(m, "an OrderedDict with arguments");
        made.kind = PICKLE_DICT;
        break;
    case NAME_TENSOR_V2:
    case NAME_TENSOR_V3:
    case NAME_PARAMETER:
        made.kind = PICKLE_CALL;
        made.name = f->name;
        made.first = arguments;
        break;
    case NAME_INERT: break;
    default: return bad(m, "it calls a type of storage");
    }
    return push(m, made);
}

static bool persistent(machine *m)
{
    int32_t id;
    if (!pop(m, &id))
        return false;
    if (m->p->value[id].kind != PICKLE_TUPLE)
        return bad(m, "a storage is named by something other than a tuple");
    return push(m, (pickle_value){.kind = PICKLE_STORAGE, .first = id, .last = -1});
}

/* ---- containers ---- */

/* Everything above the mark becomes links of `container`; pairs for a dict. Opaque containers swallow it. */
static bool gather(machine *m, int32_t mark, int32_t container, bool pairs)
{
    int32_t n = m->depth - mark - 1;
    const int32_t *item = m->stack + mark + 1;
    if (pairs && n % 2)
        return bad(m, "a dict with a key and no value");
    if (m->p->value[container].kind != PICKLE_OPAQUE)
        for (int32_t i = 0; i < n; i += pairs ? 2 : 1)
            if (!add_link(m, container, pairs ? item[i] : -1, item[i + (pairs ? 1 : 0)]))
                return false;
    m->depth = mark;
    return true;
}

/* A new container of what stands above the mark (or of the topmost `count` values). */
static bool collect(machine *m, pickle_kind kind, int count)
{
    int32_t mark;
    if (count >= 0) {
        if (m->depth < count)
            return bad(m, "its stack is empty");
        for (int i = 1; i <= count; i++)
            if (m->stack[m->depth - i] == MARK)
                return bad(m, "its stack is empty");
        mark = m->depth - count - 1;
    } else if (!find_mark(m, &mark)) {
        return false;
    }
    if (!push_kind(m, kind)) /* on top for a moment: it must not be gathered itself */
        return false;
    int32_t made = m->stack[--m->depth], keep = count >= 0 ? mark + 1 : mark;
    if (!gather(m, mark, made, kind == PICKLE_DICT))
        return false;
    m->depth = keep;
    return push_number(m, made);
}

/* APPENDS, SETITEMS, ADDITEMS: into the container that stands below the mark. */
static bool extend(machine *m, pickle_kind kind)
{
    int32_t mark;
    if (!find_mark(m, &mark))
        return false;
    int32_t container = mark > 0 ? m->stack[mark - 1] : MARK;
    if (container == MARK || (m->p->value[container].kind != kind && m->p->value[container].kind != PICKLE_OPAQUE))
        return bad(m, "items for what is no container of them");
    return gather(m, mark, container, kind == PICKLE_DICT);
}

static bool extend_one(machine *m, pickle_kind kind)
{
    int32_t value, key = -1;
    if (!pop(m, &value) || (kind == PICKLE_DICT && !pop(m, &key)))
        return false;
    int32_t container = m->depth > 0 ? m->stack[m->depth - 1] : MARK;
    if (container == MARK || (m->p->value[container].kind != kind && m->p->value[container].kind != PICKLE_OPAQUE))
        return bad(m, "an item for what is no container of it");
    return m->p->value[container].kind == PICKLE_OPAQUE || add_link(m, container, key, value);
}

/* Attributes of an object: a dict's are no weights (an OrderedDict has _metadata), so they are dropped. */
static bool build(machine *m)
{
    int32_t state;
    if (!pop(m, &state))
        return false;
    int32_t object = m->depth > 0 ? m->stack[m->depth - 1] : MARK;
    pickle_kind kind = object == MARK ? PICKLE_NONE : (pickle_kind)m->p->value[object].kind;
    return kind == PICKLE_OPAQUE || kind == PICKLE_DICT || kind == PICKLE_CALL || bad(m, "attributes for what is no object");
}

/* ---- the memo ---- */

static bool remember(machine *m, uint64_t index)
{
    if (m->depth == 0 || m->stack[m->depth - 1] == MARK)
        return bad(m, "its stack is empty");
    if (index > (uint64_t)m->p->values) /* Python counts them one by one: this is a file that wants memory */
        return bad(m, "a memo number beyond the number of its values");
    while (index >= (uint64_t)m->memo_room) {
        int32_t used = m->memo_room;
        if (!grow(m, &m->memo, used, &m->memo_room, sizeof *m->memo))
            return false;
        for (int32_t i = used; i < m->memo_room; i++)
            m->memo[i] = MARK;
    }
    m->memo[index] = m->stack[m->depth - 1];
    return true;
}

static bool recall(machine *m, uint64_t index)
{
    if (index >= (uint64_t)m->memo_room || m->memo[index] == MARK)
        return bad(m, "a memo number that was never given");
    return push_number(m, m->memo[index]);
}

static bool memoize(machine *m, int32_t *next) { return remember(m, (uint64_t)(*next)++); }

/* ---- the loop ---- */

static bool skip(machine *m, int bytes)
{
    uint64_t n;
    return number(m, bytes, &n);
}

static bool duplicate(machine *m)
{
    int32_t n;
    return pop(m, &n) && push_number(m, n) && push_number(m, n);
}

static bool drop_to_mark(machine *m)
{
    int32_t mark;
    if (!find_mark(m, &mark))
        return false;
    m->depth = mark;
    return true;
}

static bool unknown_opcode(machine *m, uint8_t op)
{
    return status_set(m->st, STATUS_BAD_FILE, "%s: its pickle has opcode 0x%02x at byte %zu, which torch does not write", m->file, op, m->at - 1);
}

static bool numbered(machine *m, uint8_t op)
{
    uint64_t n;
    switch (op) {
    case 'J': return number(m, 4, &n) && integer(m, (int32_t)(uint32_t)n);
    case 'K': return number(m, 1, &n) && integer(m, (int64_t)n);
    case 'M': return number(m, 2, &n) && integer(m, (int64_t)n);
    case 'G': return number(m, 8, &n) && push_kind(m, PICKLE_FLOAT);
    case 'q': return number(m, 1, &n) && remember(m, n);
    case 'r': return number(m, 4, &n) && remember(m, n);
    case 'h': return number(m, 1, &n) && recall(m, n);
    case 'j': return number(m, 4, &n) && recall(m, n);
    case 0x8a: return long_integer(m, 1);
    case 0x8b: return long_integer(m, 4);
    case 'X': case 'T': case 'B': return text(m, 4);
    case 'U': case 'C': case 0x8c: return text(m, 1);
    case 0x8d: case 0x8e: case 0x96: return text(m, 8);
    default: return unknown_opcode(m, op);
    }
}

static bool step(machine *m, uint8_t op, int32_t *memos)
{
    int32_t n;
    switch (op) {
    case 0x80: return skip(m, 1);                       /* PROTO */
    case 0x95: return skip(m, 8);                       /* FRAME */
    case '(': return push_number(m, MARK);
    case '0': return pop(m, &n);
    case '1': return drop_to_mark(m);
    case '2': return duplicate(m);
    case 'N': return push_kind(m, PICKLE_NONE);
    case 0x88: case 0x89: return push(m, (pickle_value){.kind = PICKLE_BOOL, .first = -1, .last = -1, .as.number = op == 0x88});
    case ')': return push_kind(m, PICKLE_TUPLE);
    case ']': case 0x8f: return push_kind(m, PICKLE_LIST); /* a set is a list to us */
    case '}': return push_kind(m, PICKLE_DICT);
    case 't': return collect(m, PICKLE_TUPLE, -1);
    case 0x85: case 0x86: case 0x87: return collect(m, PICKLE_TUPLE, op - 0x84);
    case 'l': case 0x91: return collect(m, PICKLE_LIST, -1);
    case 'd': return collect(m, PICKLE_DICT, -1);
    case 'e': case 0x90: return extend(m, PICKLE_LIST);
    case 'u': return extend(m, PICKLE_DICT);
    case 'a': return extend_one(m, PICKLE_LIST);
    case 's': return extend_one(m, PICKLE_DICT);
    case 'c': return global(m);
    case 0x93: return stack_global(m);
    case 'R': case 0x81: return call(m);
    case 'b': return build(m);
    case 'Q': return persistent(m);
    case 0x94: return memoize(m, memos);
    default: return numbered(m, op);
    }
}

static bool run(machine *m)
{
    int32_t memos = 0;
    const uint8_t *op = NULL;
    while (take(m, 1, &op)) {
        if (*op == '.')
            return pop(m, &m->p->result);
        if (!step(m, *op, &memos))
            return false;
    }
    return false;
}

bool pickle_read(pickle *p, const uint8_t *bytes, size_t count, const char *file, status *st)
{
    *p = (pickle){.bytes = bytes, .result = -1};
    if (count > PICKLE_MOST_BYTES)
        return status_set(st, STATUS_BAD_FILE, "%s: its pickle has %zu bytes, at most %d are read", file, count, PICKLE_MOST_BYTES);
    machine m = {.p = p, .bytes = bytes, .count = count, .file = file, .st = st};
    bool ok = run(&m);
    mem_free(m.stack);
    mem_free(m.memo);
    return ok;
}

void pickle_free(pickle *p)
{
    mem_free(p->value);
    mem_free(p->link);
    *p = (pickle){.result = -1};
}

/* ---- looking at the result ---- */

bool pickle_is(const pickle *p, int32_t value, pickle_kind kind) { return value >= 0 && p->value[value].kind == kind; }

int32_t pickle_member(const pickle *p, int32_t dict, const char *key)
{
    if (!pickle_is(p, dict, PICKLE_DICT))
        return -1;
    for (int32_t i = p->value[dict].first; i >= 0; i = p->link[i].next) {
        const pickle_value *k = &p->value[p->link[i].key];
        if (k->kind == PICKLE_TEXT && same(p->bytes + k->as.text.at, k->as.text.length, key))
            return p->link[i].value;
    }
    return -1;
}

static bool is_sequence(const pickle *p, int32_t v) { return pickle_is(p, v, PICKLE_TUPLE) || pickle_is(p, v, PICKLE_LIST); }

int32_t pickle_item(const pickle *p, int32_t tuple, int n)
{
    if (!is_sequence(p, tuple))
        return -1;
    int32_t i = p->value[tuple].first;
    while (i >= 0 && n-- > 0)
        i = p->link[i].next;
    return i >= 0 ? p->link[i].value : -1;
}

int pickle_length(const pickle *p, int32_t container)
{
    int n = 0;
    if (is_sequence(p, container))
        for (int32_t i = p->value[container].first; i >= 0 && n < PICKLE_MOST_LENGTH; i = p->link[i].next)
            n++;
    return n;
}
