/* Kudo, Subword Regularization, arXiv:1804.10959: a text is cut so that its pieces' summed log probabilities are greatest (Viterbi).
 * As in the tokenizers library, which transformers uses: sums in double precision (sentencepiece: single), the first of equals wins,
 * control pieces such as </s> take part, though they come about only where normalization makes them (of full-width letters), and
 * neighbouring unknown characters are one unknown token. */
#include <stdlib.h>
#include <string.h>
#include <stdio.h>

#include "base/mem.h"
#include "text/spm_model.h"
#include "text/tok_spm.h"

enum { UNKNOWN = 2, UNKNOWN_PENALTY = 10 }; /* T5Tokenizer fixes the id, whatever the model says */

typedef struct entry {
    const char *text;
    int32_t id;
    float score;
} entry;

typedef struct builder {
    unigram *u;
    entry *entry;
    size_t used;
} builder;

static bool add_piece(void *ctx, const spm_piece *p)
{
    builder *b = ctx;
    char *text = b->u->text + b->used;
    memcpy(text, p->text, p->bytes); /* the 0 behind it is there already */
    b->entry[b->u->count] = (entry){text, b->u->count, p->score};
    b->u->count++;
    b->used += p->bytes + 1;
    return true;
}

static int by_text(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    int c = strcmp(x->text, y->text);
    return c ? c : x->id < y->id ? -1 : x->id > y->id;
}

/* Of pieces that are there twice the last one counts. */
static bool sort_pieces(builder *b, status *st)
{
    unigram *u = b->u;
    size_t n = (size_t)u->count;
    qsort(b->entry, n, sizeof *b->entry, by_text);
    for (size_t i = 0; i < n; i++)
        if (i + 1 == n || strcmp(b->entry[i].text, b->entry[i + 1].text) != 0)
            b->entry[u->sorted++] = b->entry[i];
    n = (size_t)u->sorted;
    u->start = mem_alloc(n, sizeof *u->start, "vocabulary", st);
    u->id = u->start ? mem_alloc(n, sizeof *u->id, "vocabulary", st) : NULL;
    u->score = u->id ? mem_alloc(n, sizeof *u->score, "vocabulary", st) : NULL;
    for (size_t i = 0; u->score && i < n; i++) {
        u->start[i] = (uint32_t)(b->entry[i].text - u->text);
        u->id[i] = b->entry[i].id;
        u->score[i] = b->entry[i].score;
    }
    return u->score != NULL;
}

static void set_unknown(builder *b)
{
    unigram *u = b->u;
    double least = 0;
    for (int32_t i = 0; i < u->count; i++)
        if (i == 0 || b->entry[i].score < least)
            least = b->entry[i].score;
    u->unknown = UNKNOWN;
    u->unknown_score = least - UNKNOWN_PENALTY;
}

static bool fill(builder *b, const void *model, size_t bytes, int extra_ids, const char *name, status *st)
{
    spm_facts facts;
    if (!spm_walk(model, bytes, name, add_piece, b, &facts, st))
        return false;
    for (int i = extra_ids - 1; i >= 0; i--) {
        char text[32];
        int n = snprintf(text, sizeof text, "<extra_id_%d>", i);
        add_piece(b, &(spm_piece){.text = text, .bytes = (uint32_t)n});
    }
    set_unknown(b);
    return sort_pieces(b, st);
}

bool unigram_read(unigram *u, const void *model, size_t bytes, int extra_ids, const char *name, status *st)
{
    enum { EXTRA_BYTES = 24 }; /* more than the longest <extra_id_N> takes */
    spm_facts facts;
    *u = (unigram){0};
    if (!spm_walk(model, bytes, name, NULL, NULL, &facts, st))
        return false;
    if (facts.pieces <= UNKNOWN)
        return status_set(st, STATUS_BAD_FILE, "%s: has only %d pieces", name, facts.pieces);
    size_t count = (size_t)facts.pieces + (size_t)extra_ids;
    size_t text_bytes = facts.text_bytes + (size_t)facts.pieces + (size_t)extra_ids * EXTRA_BYTES;
    if (text_bytes > UINT32_MAX)
        return status_set(st, STATUS_BAD_FILE, "%s: has %zu bytes of pieces", name, text_bytes);
    builder b = {.u = u};
    u->text = mem_alloc(text_bytes, 1, "vocabulary", st);
    b.entry = u->text ? mem_alloc(count, sizeof *b.entry, "vocabulary", st) : NULL;
    bool ok = b.entry && fill(&b, model, bytes, extra_ids, name, st);
    mem_free(b.entry);
    if (!ok)
        unigram_free(u);
    return ok;
}

void unigram_free(unigram *u)
{
    mem_free(u->text);
    mem_free(u->start);
    mem_free(u->id);
    mem_free(u->score);
    *u = (unigram){0};
}

/* ---- looking up: the sorted pieces that begin with what was read so far are a range, narrowed byte by byte ---- */

typedef struct range {
    int32_t low, high;
    size_t depth;
} range;

static uint8_t byte_at(const unigram *u, int32_t i, size_t depth) { return (uint8_t)u->text[u->start[i] + depth]; }

/* The first entry of the range whose byte is at least c. */
static int32_t bound(const unigram *u, const range *r, int32_t low, unsigned c)
{
    int32_t high = r->high;
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        if (byte_at(u, middle, r->depth) < c)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Further by one byte (not 0); false when no piece goes on like that. */
static bool narrow(const unigram *u, range *r, uint8_t c)
{
    r->low = bound(u, r, r->low, c);
    r->high = bound(u, r, r->low, c + 1u);
    r->depth++;
    return r->low < r->high;
}

/* The piece that ends here is the first of the range. */
static bool complete(const unigram *u, const range *r) { return byte_at(u, r->low, r->depth) == 0; }

int32_t unigram_find(const unigram *u, const char *text, size_t bytes)
{
    range r = {0, u->sorted, 0};
    for (size_t i = 0; i < bytes; i++)
        if (!text[i] || !narrow(u, &r, (uint8_t)text[i]))
            return -1;
    return bytes > 0 && complete(u, &r) ? u->id[r.low] : -1;
}

/* ---- the best path ---- */

typedef struct node {     /* the best way to reach this byte */
    double score;
    uint32_t start;       /* where its last piece begins; on the way back: where the next one ends */
    int32_t id;           /* -1: not reached */
} node;

static void reach(node *n, double score, size_t start, int32_t id)
{
    if (n->id < 0 || score > n->score)
        *n = (node){score, (uint32_t)start, id};
}

static size_t character_bytes(uint8_t first) { return first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4; }

static void find_path(const unigram *u, const char *word, size_t bytes, node *n)
{
    for (size_t i = 0; i <= bytes; i++)
        n[i] = (node){0, 0, -1};
    for (size_t at = 0, step; at < bytes; at += step) {
        range r = {0, u->sorted, 0};
        bool single = false;
        step = character_bytes((uint8_t)word[at]);
        for (size_t i = at; i < bytes && narrow(u, &r, (uint8_t)word[i]); i++)
            if (complete(u, &r)) {
                reach(&n[i + 1], n[at].score + (double)u->score[r.low], at, u->id[r.low]);
                single = single || i + 1 - at == step;
            }
        if (!single)
            reach(&n[at + step], n[at].score + u->unknown_score, at, u->unknown);
    }
}

/* From the end back, leaving in each node where the path goes on. */
static void turn_round(node *n, size_t bytes)
{
    uint32_t next = 0, at = (uint32_t)bytes;
    for (;;) {
        uint32_t start = n[at].start;
        n[at].start = next;
        if (at == 0)
            return;
        next = at;
        at = start;
    }
}

static void put_path(const unigram *u, const char *word, const node *n, size_t bytes, id_list *out)
{
    for (uint32_t at = 0, end; at < bytes; at = end) {
        end = n[at].start;
        int32_t id = n[end].id;
        if (id == u->unknown) {
            while (end < bytes && n[n[end].start].id == u->unknown)
                end = n[end].start;
            int32_t known = unigram_find(u, word + at, end - at); /* only a strange model holds what was unknown piece by piece */
            id = known >= 0 ? known : u->unknown;
        }
        id_put(out, id);
    }
}

bool unigram_cut(const unigram *u, const char *word, size_t bytes, text_buffer *scratch, id_list *out, status *st)
{
    size_t need;
    if (bytes >= UINT32_MAX || !size_mul(bytes + 1, sizeof(node), &need))
        return status_set(st, STATUS_FAILED, "a word of %zu bytes is too long", bytes);
    if (need > scratch->room) {
        scratch->used = 0;
        void *p = mem_resize(NULL, need, 2, "path through a word", st);
        if (!p)
            return false;
        mem_free(scratch->text);
        *scratch = (text_buffer){p, 0, need * 2};
    }
    node *n = (node *)(void *)scratch->text;
    find_path(u, word, bytes, n);
    turn_round(n, bytes);
    put_path(u, word, n, bytes, out);
    return true;
}
