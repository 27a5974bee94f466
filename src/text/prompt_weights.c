/* Weights and chunks as stable-diffusion-webui has them (modules/prompt_parser.py, parse_prompt_attention; modules/sd_hijack_clip.py; "Original"
 * emphasis). Two things differ: BREAK within brackets is a BREAK (there it becomes a word of negative weight), and a weight that is no number is text.
 * [from:to:when] and a|b are not understood as prompt editing. */
#include "text/prompt_weights.h"

#include <string.h>
#include <unistr.h>

#include "base/mem.h"
#include "text/unicode.h"

enum { MOST_CHUNKS = 64, COMMA_REACH = 20 }; /* a chunk that is full ends behind a comma among its last 20 tokens */

typedef struct piece {
    size_t at, bytes;      /* in the text buffer */
    double weight;
    bool is_break;
} piece;

typedef struct parser {
    text_buffer text;
    text_buffer pieces;    /* of piece */
    text_buffer round, square; /* of size_t: the pieces at which brackets opened */
    status *st;
} parser;

static piece *piece_at(const parser *p, size_t i) { return (piece *)(void *)p->pieces.text + i; }
static size_t piece_count(const parser *p) { return p->pieces.used / sizeof(piece); }

static bool is_word(uint32_t c) { return c == '_' || unicode_letter(c) || unicode_number(c); }
static bool is_blank(uint32_t c) { return unicode_space(c) || (c >= 0x1c && c <= 0x1f); }

/* The word BREAK in [from, end), or NULL. */
static const char *find_break(const char *from, const char *end)
{
    const uint8_t *begin = (const uint8_t *)from;
    for (const char *at = from; end - at >= 5; at++) {
        ucs4_t before = 0, behind = 0;
        if (memcmp(at, "BREAK", 5) != 0)
            continue;
        if (at > from)
            u8_prev(&before, (const uint8_t *)at, begin);
        if (end - at > 5)
            u8_mbtouc(&behind, (const uint8_t *)at + 5, (size_t)(end - at - 5));
        if (!is_word(before) && !is_word(behind))
            return at;
    }
    return NULL;
}

bool prompt_is_plain(const char *text) { return !text[strcspn(text, "()[]")] && !find_break(text, text + strlen(text)); }

/* No token is shorter than a byte; composing and lower-casing make no more than three of one, and of ASCII none. */
bool prompt_may_be_long(const char *text)
{
    size_t n = strlen(text), most = 75;
    for (size_t i = 0; i < n; i++)
        most = (uint8_t)text[i] < 0x80 ? most : 25;
    return !prompt_is_plain(text) && (n > most || find_break(text, text + n));
}

/* ---- parsing ---- */

static bool put(parser *p, const char *text, size_t bytes, bool is_break)
{
    piece one = {p->text.used, bytes, 1, is_break};
    return text_append(&p->text, text, bytes, p->st) && text_append(&p->pieces, (const char *)&one, sizeof one, p->st);
}

static bool put_text(parser *p, const char *from, const char *end)
{
    for (const char *at; (at = find_break(from, end));) {
        const char *stop = at, *next = at + 5;
        ucs4_t c;
        for (const uint8_t *q; stop > from && (q = u8_prev(&c, (const uint8_t *)stop, (const uint8_t *)from)) && is_blank(c);)
            stop = (const char *)q;
        if (!put(p, from, (size_t)(stop - from), false) || !put(p, at, 5, true))
            return false;
        for (int n; next < end && (n = u8_mbtouc(&c, (const uint8_t *)next, (size_t)(end - next))) > 0 && is_blank(c);)
            next += n;
        from = next;
    }
    return put(p, from, (size_t)(end - from), false);
}

static bool open_bracket(parser *p, text_buffer *brackets)
{
    size_t at = piece_count(p);
    return text_append(brackets, (const char *)&at, sizeof at, p->st);
}

static void close_bracket(parser *p, text_buffer *brackets, double weight)
{
    size_t at;
    brackets->used -= sizeof at;
    memcpy(&at, brackets->text + brackets->used, sizeof at);
    for (; at < piece_count(p); at++)
        piece_at(p, at)->weight *= weight;
}

static const char *skip_blanks(const char *p)
{
    ucs4_t c;
    for (int n; *p && (n = u8_strmbtouc(&c, (const uint8_t *)p)) > 0 && is_blank(c);)
        p += n;
    return p;
}

/* ": 1.3 )" from its colon on; NULL: it is something else. */
static const char *read_weight(const char *p, double *weight)
{
    p = skip_blanks(p + 1);
    double sign = *p == '-' ? -1 : 1, value = 0, unit = 1;
    bool digits = false, point = false;
    p += *p == '-' || *p == '+';
    for (; (*p >= '0' && *p <= '9') || (*p == '.' && !point); p++) {
        point = point || *p == '.';
        if (*p == '.')
            continue;
        digits = true;
        value = value * 10 + (*p - '0');
        unit *= point ? 10 : 1;
    }
    p = skip_blanks(p);
    if (!digits || *p != ')' || !(value < 1e30))
        return NULL;
    *weight = sign * value / unit;
    return p + 1;
}

/* What begins at *at; moves it behind. */
static bool parse_one(parser *p, const char **at)
{
    const char *from = *at, *end;
    double weight;
    if (*from == '\\') {
        size_t n = from[1] && strchr("()[]\\", from[1]) ? 1 : 0;
        *at += 1 + n;
        return put(p, from + 1, n, false);
    }
    if (*from == '(' || *from == '[') {
        *at += 1;
        return open_bracket(p, *from == '(' ? &p->round : &p->square);
    }
    if (*from == ':' && (end = read_weight(from, &weight))) {
        *at = end;
        if (!p->round.used)
            return put_text(p, from, end);
        close_bracket(p, &p->round, weight);
        return true;
    }
    text_buffer *brackets = *from == ')' ? &p->round : &p->square;
    if ((*from == ')' || *from == ']') && brackets->used) {
        *at += 1;
        close_bracket(p, brackets, *from == ')' ? 1.1 : 1 / 1.1);
        return true;
    }
    *at += strchr(")]:", *from) ? 1 : strcspn(from, "\\()[]:");
    return put_text(p, from, *at);
}

static bool parse(parser *p, const char *text)
{
    while (*text)
        if (!parse_one(p, &text))
            return false;
    while (p->round.used)
        close_bracket(p, &p->round, 1.1);
    while (p->square.used)
        close_bracket(p, &p->square, 1 / 1.1);
    size_t n = 0, count = piece_count(p);
    for (size_t i = 0; i < count; i++) { /* pieces lie one behind the other in the text, so that neighbours of one weight are one piece */
        piece *last = n ? piece_at(p, n - 1) : NULL, one = *piece_at(p, i);
        if (last && !last->is_break && !one.is_break && last->weight == one.weight)
            last->bytes += one.bytes;
        else
            *piece_at(p, n++) = one;
    }
    p->pieces.used = n * sizeof(piece);
    return true;
}

static void parser_free(parser *p)
{
    mem_free(p->text.text);
    mem_free(p->pieces.text);
    mem_free(p->round.text);
    mem_free(p->square.text);
}

/* ---- chunks ---- */

typedef struct chunker {
    prompt_chunks *p;
    const tokenizer *t;
    int32_t *ids, comma;   /* the chunk being filled: without marks */
    float *weight;
    int used, last_comma;
    status *st;
} chunker;

/* begin, tokens, end, padding */
static void place_chunk(const prompt_chunks *p, const tokenizer *t, int chunk, const int32_t *ids, const float *weight, int used)
{
    const tokenizer_marks *m = tokenizer_marks_of(t);
    int32_t *to = p->ids + (size_t)chunk * (size_t)p->tokens;
    float *w = p->weight + (size_t)chunk * (size_t)p->tokens;
    for (int i = 0; i < p->tokens; i++) {
        bool inside = i > 0 && i <= used;
        to[i] = i == 0 ? m->begin : inside ? ids[i - 1] : i == used + 1 ? m->end : m->pad;
        w[i] = inside ? weight[i - 1] : 1;
    }
}

static bool add_chunk(chunker *c, int used)
{
    prompt_chunks *p = c->p;
    if (p->chunks == MOST_CHUNKS)
        return status_set(c->st, STATUS_USAGE, "the prompt has more than %d chunks of %d tokens", MOST_CHUNKS, p->tokens - 2);
    size_t count = (size_t)(p->chunks + 1) * (size_t)p->tokens;
    int32_t *ids = mem_resize(p->ids, count, sizeof *ids, "tokens", c->st);
    if (!ids)
        return false;
    p->ids = ids;
    float *weight = mem_resize(p->weight, count, sizeof *weight, "tokens", c->st);
    if (!weight)
        return false;
    p->weight = weight;
    place_chunk(p, c->t, p->chunks++, c->ids, c->weight, used);
    c->used -= used;
    for (int i = 0; i < c->used; i++) { /* what did not fit begins the next one */
        c->ids[i] = c->ids[used + i];
        c->weight[i] = c->weight[used + i];
    }
    c->last_comma = -1;
    return true;
}

static bool add_token(chunker *c, int32_t id, double weight)
{
    int most = c->p->tokens - 2;
    if (id == c->comma)
        c->last_comma = c->used;
    else if (c->used == most && c->last_comma >= 0 && c->used - c->last_comma <= COMMA_REACH && !add_chunk(c, c->last_comma + 1))
        return false;
    if (c->used == most && !add_chunk(c, most))
        return false;
    c->ids[c->used] = id;
    c->weight[c->used++] = (float)weight;
    return true;
}

static bool add_piece(chunker *c, const parser *p, const piece *one)
{
    if (one->is_break)
        return add_chunk(c, c->used);
    char *text = mem_alloc(one->bytes + 1, 1, "text", c->st);
    int whole = 0;
    if (!text)
        return false;
    memcpy(text, p->text.text + one->at, one->bytes);
    bool ok = tokenizer_encode_part(c->t, text, NULL, 0, &whole, c->st) >= 0;
    int32_t *ids = ok ? mem_alloc((size_t)whole + 1, sizeof *ids, "tokens", c->st) : NULL;
    ok = ids && tokenizer_encode_part(c->t, text, ids, whole, &whole, c->st) >= 0;
    for (int i = 0; ok && i < whole; i++)
        ok = add_token(c, ids[i], one->weight);
    mem_free(ids);
    mem_free(text);
    return ok;
}

static bool cut_chunks(chunker *c, const char *text)
{
    parser p = {.st = c->st};
    bool ok = text_append(&p.text, "", 1, c->st) && parse(&p, text);
    for (size_t i = 0; ok && i < piece_count(&p); i++)
        ok = add_piece(c, &p, piece_at(&p, i));
    parser_free(&p);
    return ok && (!(c->used || !c->p->chunks) || add_chunk(c, c->used));
}

static bool plain_chunk(chunker *c, const char *text)
{
    int most = c->p->tokens - 2, whole = 0, n = tokenizer_encode_part(c->t, text, c->ids, most, &whole, c->st);
    for (int i = 0; i < n; i++)
        c->weight[i] = 1;
    c->used = n;
    c->p->cut = whole > n ? whole - n : 0;
    return n >= 0 && add_chunk(c, n);
}

bool prompt_read(prompt_chunks *p, const tokenizer *t, const char *text, int tokens, bool plain, status *st)
{
    const tokenizer_marks *m = tokenizer_marks_of(t);
    *p = (prompt_chunks){.tokens = tokens};
    if (tokens < 3 || m->begin < 0 || m->end < 0 || m->pad < 0)
        return status_set(st, STATUS_BAD_FILE, "the tokenizer lacks a mark for the beginning, the end or the padding of a text of %d tokens", tokens);
    chunker c = {.p = p, .t = t, .last_comma = -1, .comma = -1, .st = st};
    c.ids = mem_alloc((size_t)tokens, sizeof *c.ids, "tokens", st);
    c.weight = mem_alloc((size_t)tokens, sizeof *c.weight, "tokens", st);
    char *sound = text_repair(text, st);
    int32_t comma[2];
    if (status_ok(st) && tokenizer_encode_part(t, ",", comma, 2, NULL, st) == 1)
        c.comma = comma[0];
    bool ok = status_ok(st) && (plain || prompt_is_plain(sound) ? plain_chunk(&c, sound) : cut_chunks(&c, sound));
    mem_free(sound);
    mem_free(c.ids);
    mem_free(c.weight);
    if (!ok)
        prompt_free(p);
    return ok;
}

bool prompt_lengthen(prompt_chunks *p, const tokenizer *t, int chunks, status *st)
{
    chunker c = {.p = p, .t = t, .st = st};
    while (p->chunks < chunks)
        if (!add_chunk(&c, 0))
            return false;
    return true;
}

void prompt_free(prompt_chunks *p)
{
    mem_free(p->ids);
    mem_free(p->weight);
    *p = (prompt_chunks){0};
}

/* ---- weights ---- */

void prompt_weigh(float *hidden, const float *weight, int tokens, int width)
{
    double before = 0, after = 0;
    bool any = false;
    for (int t = 0; t < tokens; t++)
        any = any || weight[t] != 1;
    for (int t = 0; any && t < tokens; t++)
        for (int i = 0; i < width; i++) {
            float *x = &hidden[(size_t)t * (size_t)width + (size_t)i];
            before += *x;
            *x *= weight[t];
            after += *x;
        }
    if (!any || after == 0)
        return;
    float ratio = (float)(before / after);
    for (size_t i = 0; i < (size_t)tokens * (size_t)width; i++)
        hidden[i] *= ratio;
}
