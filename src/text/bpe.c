/* Byte-pair encoding (Sennrich et al., arXiv:1508.07909) on bytes, with </w> at the end of a word. Two neighbours become one by the lowest rank, the
 * leftmost first. The queue is that of the tokenizers library, its stale entries included: an entry counts as long as its two neighbours would
 * still become the same token. */
#include "text/bpe.h"

#include <stdlib.h>
#include <string.h>
#include <unistr.h>

#include "base/mem.h"

/* ---- reading ---- */

/* Which character stands for a byte: itself where it prints, else one from U+0100 on (GPT-2's bytes_to_unicode). */
static void letter_texts(char text[256][8])
{
    uint32_t next = 0x100;
    for (uint32_t b = 0; b < 256; b++) {
        bool prints = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        text[b][u8_uctomb((uint8_t *)text[b], prints ? b : next++, 8)] = 0;
    }
}

static void find_letters(bpe *b)
{
    static const char end[] = "</w>";
    char text[256][8] = {{0}}, with_end[16];
    letter_texts(text);
    for (int i = 0; i < 256; i++) {
        size_t n = strlen(text[i]);
        b->letter[i] = token_find(&b->words, text[i], n);
        memcpy(with_end, text[i], n);
        memcpy(with_end + n, end, sizeof end);
        b->last[i] = token_find(&b->words, with_end, n + sizeof end - 1);
    }
}

static int shown(size_t bytes) { return bytes < 40 ? (int)bytes : 40; } /* of a token, in a sentence */

static bool add_merge(bpe *b, const char *left, size_t left_bytes, const char *right, size_t right_bytes, text_buffer *both, const char *name, status *st)
{
    both->used = 0;
    if (!text_append(both, left, left_bytes, st) || !text_append(both, right, right_bytes, st))
        return false;
    bpe_merge *m = &b->merge[b->merges];
    *m = (bpe_merge){token_find(&b->words, left, left_bytes), token_find(&b->words, right, right_bytes), b->merges, token_find(&b->words, both->text, both->used)};
    if (m->left < 0 || m->right < 0 || m->id < 0)
        return status_set(st, STATUS_BAD_FILE, "%s: merge %d, \"%.*s %.*s\": the vocabulary lacks %s", name, b->merges + 1, shown(left_bytes), left,
                          shown(right_bytes), right, m->left < 0 ? "the first" : m->right < 0 ? "the second" : "what they make");
    b->merges++;
    return true;
}

static bool merge_room(bpe *b, size_t count, status *st)
{
    b->merge = mem_alloc(count + 1, sizeof *b->merge, "merges", st);
    return b->merge != NULL;
}

/* "left right" a line; lines that begin with #version are none. */
static bool read_merges(bpe *b, const tokenizer_file *f, const char *name, status *st)
{
    const uint8_t *bad = u8_check((const uint8_t *)f->text, f->bytes);
    if (bad)
        return status_set(st, STATUS_BAD_FILE, "%s: byte %zu is not UTF-8", name, (size_t)((const char *)bad - f->text));
    size_t lines = 1, number = 0;
    for (size_t i = 0; i < f->bytes; i++)
        lines += f->text[i] == '\n';
    text_buffer both = {0};
    bool ok = merge_room(b, lines, st) && text_append(&both, "", 1, st);
    const char *end = f->text + f->bytes, *next;
    for (const char *line = f->text; ok && line < end; line = next) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        next = stop ? stop + 1 : end;
        stop = stop ? stop : end;
        number++;
        if (stop > line && stop[-1] == '\r')
            stop--;
        if (stop - line >= 8 && memcmp(line, "#version", 8) == 0)
            continue;
        const char *space = memchr(line, ' ', (size_t)(stop - line));
        if (!space || memchr(space + 1, ' ', (size_t)(stop - space - 1)))
            ok = status_set(st, STATUS_BAD_FILE, "%s: line %zu: a merge is two tokens with a space between them", name, number);
        else
            ok = add_merge(b, line, (size_t)(space - line), space + 1, (size_t)(stop - space - 1), &both, name, st);
    }
    mem_free(both.text);
    return ok;
}

/* tokenizer.json: "left right" or ["left", "right"] */
static bool add_json_merge(bpe *b, json *m, text_buffer *both, const char *name, status *st)
{
    bool pair = json_object_is_type(m, json_type_array) && json_object_array_length(m) == 2;
    json *left = pair ? json_object_array_get_idx(m, 0) : m, *right = pair ? json_object_array_get_idx(m, 1) : NULL;
    const char *text = json_object_is_type(left, json_type_string) ? json_object_get_string(left) : NULL, *space = text && !pair ? strchr(text, ' ') : NULL;
    if (pair && text && json_object_is_type(right, json_type_string))
        return add_merge(b, text, strlen(text), json_object_get_string(right), (size_t)json_object_get_string_len(right), both, name, st);
    if (space && !strchr(space + 1, ' '))
        return add_merge(b, text, (size_t)(space - text), space + 1, strlen(space + 1), both, name, st);
    return status_set(st, STATUS_BAD_FILE, "%s: merge %d is not two tokens", name, b->merges + 1);
}

static bool read_model(bpe *b, const json *model, const char *name, status *st)
{
    const json *vocab = json_member(model, "vocab"), *merges = json_member(model, "merges");
    const char *type = json_text(model, "type", "BPE", name, st);
    if (!vocab || !json_object_is_type(vocab, json_type_object) || !merges || !json_object_is_type(merges, json_type_array) || strcmp(type, "BPE") != 0)
        return status_set(st, STATUS_BAD_FILE, "%s: holds no BPE model with a vocabulary and merges", name);
    json_object_object_foreach((json *)(uintptr_t)vocab, token, id)
        if (!json_object_is_type(id, json_type_int))
            return status_set(st, STATUS_BAD_FILE, "%s: token \"%.40s\" has no id", name, token);
        else if (!token_add(&b->words, token, strlen(token), json_object_get_int64(id), name, st))
            return false;
    size_t count = json_object_array_length(merges);
    text_buffer both = {0};
    bool ok = merge_room(b, count, st) && text_append(&both, "", 1, st);
    for (size_t i = 0; ok && i < count; i++)
        ok = add_json_merge(b, json_object_array_get_idx(merges, i), &both, name, st);
    mem_free(both.text);
    return ok;
}

static bool read_whole(bpe *b, const tokenizer_file *f, const char *name, json **added_tokens, status *st)
{
    json *j = json_parse(f->text, f->bytes, name, st);
    const json *model = j ? json_member(j, "model") : NULL;
    if (j)
        *added_tokens = json_object_get((json *)(uintptr_t)json_member(j, "added_tokens"));
    bool ok = j && (model ? read_model(b, model, name, st) : status_set(st, STATUS_BAD_FILE, "%s: holds no model", name));
    json_free(j);
    return ok;
}

static bool read_files(bpe *b, const tokenizer_files *f, json **added_tokens, status *st)
{
    char *vocab = mem_format(st, "%svocab.json", f->folder), *merges = mem_format(st, "%smerges.txt", f->folder), *whole = mem_format(st, "%stokenizer.json", f->folder);
    bool ok = vocab && merges && whole;
    if (ok && f->vocab.text && f->merges.text)
        ok = token_add_json(&b->words, &f->vocab, vocab, st) && read_merges(b, &f->merges, merges, st);
    else if (ok && f->whole.text)
        ok = read_whole(b, &f->whole, whole, added_tokens, st);
    else if (ok)
        ok = status_set(st, STATUS_BAD_FILE, "%s: is missing, and so is %s", f->vocab.text ? merges : vocab, whole);
    mem_free(vocab);
    mem_free(merges);
    mem_free(whole);
    return ok;
}

static int by_id(const void *x, const void *y)
{
    const token_entry *a = x, *b = y;
    return a->id < b->id ? -1 : a->id > b->id;
}

static bool ids_are_single(const bpe *b, const tokenizer_files *f, status *st)
{
    token_entry *sorted = mem_alloc((size_t)b->words.count + 1, sizeof *sorted, "vocabulary", st);
    if (!sorted)
        return false;
    memcpy(sorted, b->words.entry, (size_t)b->words.count * sizeof *sorted);
    qsort(sorted, (size_t)b->words.count, sizeof *sorted, by_id);
    for (int32_t i = 1; i < b->words.count && status_ok(st); i++)
        if (sorted[i].id == sorted[i - 1].id)
            status_set(st, STATUS_BAD_FILE, "%s%s: tokens \"%.*s\" and \"%.*s\" have the same id %d", f->folder, f->vocab.text && f->merges.text ? "vocab.json" : "tokenizer.json",
                       shown(sorted[i - 1].bytes), b->words.text.text + sorted[i - 1].at, shown(sorted[i].bytes), b->words.text.text + sorted[i].at, sorted[i].id);
    mem_free(sorted);
    return status_ok(st);
}

static int by_pair(const void *x, const void *y)
{
    const bpe_merge *a = x, *b = y;
    if (a->left != b->left)
        return a->left < b->left ? -1 : 1;
    if (a->right != b->right)
        return a->right < b->right ? -1 : 1;
    return a->rank < b->rank ? -1 : a->rank > b->rank;
}

/* Of a merge that is there twice the last counts. */
static void sort_merges(bpe *b)
{
    qsort(b->merge, (size_t)b->merges, sizeof *b->merge, by_pair);
    int32_t n = 0;
    for (int32_t i = 0; i < b->merges; i++)
        if (i + 1 == b->merges || b->merge[i].left != b->merge[i + 1].left || b->merge[i].right != b->merge[i + 1].right)
            b->merge[n++] = b->merge[i];
    b->merges = n;
}

bool bpe_read(bpe *b, const tokenizer_files *f, json **added_tokens, status *st)
{
    if (!read_files(b, f, added_tokens, st) || !ids_are_single(b, f, st))
        return false;
    find_letters(b);
    sort_merges(b);
    return true;
}

void bpe_free(bpe *b)
{
    tokens_free(&b->words);
    mem_free(b->merge);
    b->merge = NULL;
}

/* ---- merging ---- */

typedef struct symbol {
    int32_t id;
    int32_t before, behind; /* neighbours; -1 none */
    bool gone;
} symbol;

typedef struct candidate {
    int32_t rank, at, id;
} candidate;

typedef struct merging {
    const bpe *b;
    symbol *s;
    candidate *heap;
    size_t queued;
} merging;

static const bpe_merge *find_merge(const bpe *b, int32_t left, int32_t right)
{
    int32_t low = 0, high = b->merges;
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        const bpe_merge *m = &b->merge[middle];
        if (m->left == left && m->right == right)
            return m;
        if (m->left < left || (m->left == left && m->right < right))
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

static bool goes_first(const candidate *a, const candidate *b) { return a->rank != b->rank ? a->rank < b->rank : a->at < b->at; }

static void push(merging *m, int32_t at)
{
    const bpe_merge *found = find_merge(m->b, m->s[at].id, m->s[m->s[at].behind].id);
    if (!found)
        return;
    candidate c = {found->rank, at, found->id};
    size_t i = m->queued++;
    for (; i > 0 && goes_first(&c, &m->heap[(i - 1) / 2]); i = (i - 1) / 2)
        m->heap[i] = m->heap[(i - 1) / 2];
    m->heap[i] = c;
}

static candidate pop(merging *m)
{
    candidate top = m->heap[0], c = m->heap[--m->queued];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < m->queued; i = child) {
        if (child + 1 < m->queued && goes_first(&m->heap[child + 1], &m->heap[child]))
            child++;
        if (!goes_first(&m->heap[child], &c))
            break;
        m->heap[i] = m->heap[child];
    }
    m->heap[i] = c;
    return top;
}

static void merge_all(merging *m, int32_t count)
{
    for (int32_t i = 0; i + 1 < count; i++)
        push(m, i);
    while (m->queued) {
        candidate c = pop(m);
        symbol *s = &m->s[c.at];
        if (s->gone || s->behind < 0)
            continue;
        const bpe_merge *now = find_merge(m->b, s->id, m->s[s->behind].id);
        if (!now || now->id != c.id)
            continue;
        symbol *right = &m->s[s->behind];
        s->id = c.id;
        right->gone = true;
        s->behind = right->behind;
        if (s->behind >= 0)
            m->s[s->behind].before = c.at;
        if (s->before >= 0)
            push(m, s->before);
        if (s->behind >= 0)
            push(m, c.at);
    }
}

/* Every merge takes one symbol away and queues at most two candidates. */
bool bpe_word(const bpe *b, const char *word, size_t bytes, int32_t unknown, text_buffer *scratch, id_list *out, status *st)
{
    size_t symbols, heap, need;
    if (bytes > INT32_MAX || !size_mul(bytes, sizeof(symbol), &symbols) || !size_mul(3 * bytes, sizeof(candidate), &heap) || !size_add(symbols, heap, &need))
        return status_set(st, STATUS_FAILED, "a word of %zu bytes", bytes);
    if (scratch->room < need) {
        char *p = mem_resize(scratch->text, need, 1, "text", st);
        if (!p)
            return false;
        scratch->text = p;
        scratch->room = need;
    }
    merging m = {.b = b, .s = (symbol *)(void *)scratch->text, .heap = (candidate *)(void *)(scratch->text + symbols)};
    int32_t count = 0;
    for (size_t i = 0; i < bytes; i++) {
        int32_t id = (i + 1 < bytes ? b->letter : b->last)[(uint8_t)word[i]];
        id = id < 0 ? unknown : id;
        if (id >= 0)
            m.s[count] = (symbol){id, count - 1, count + 1, false}, count++;
    }
    if (!count)
        return true;
    m.s[count - 1].behind = -1;
    merge_all(&m, count);
    for (int32_t i = 0; i >= 0; i = m.s[i].behind)
        id_put(out, m.s[i].id);
    return true;
}
