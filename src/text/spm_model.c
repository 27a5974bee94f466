/* A spiece.model is a protocol buffer (sentencepiece_model.proto):
 *
 *     message ModelProto     { repeated SentencePiece pieces = 1; TrainerSpec trainer_spec = 2; NormalizerSpec normalizer_spec = 3; }
 *     message SentencePiece  { string piece = 1; float score = 2; Type type = 3 [default = NORMAL]; }
 *     message TrainerSpec    { ModelType model_type = 3 [default = UNIGRAM (1)]; }
 *     message NormalizerSpec { bytes precompiled_charsmap = 2; }
 *
 * and more, which is skipped. Four fields are read here with forty lines for the wire format, and every length is held against
 * what is left. */
#include "text/spm_model.h"

#include <math.h>
#include <string.h>
#include <unistr.h>

typedef struct message {
    const uint8_t *at, *end;
} message;

enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

typedef struct field {
    uint32_t number;
    int wire;
    uint64_t value;       /* varint */
    message bytes;        /* WIRE_BYTES, WIRE_32, WIRE_64 */
} field;

typedef struct walk {
    const char *name;
    spm_take take;
    void *ctx;
    spm_facts *out;
    status *st;
    bool normalizer;
} walk;

static bool varint(message *m, uint64_t *out)
{
    *out = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (m->at == m->end)
            return false;
        uint8_t b = *m->at++;
        *out |= (uint64_t)(b & 0x7f) << shift;
        if (!(b & 0x80))
            return true;
    }
    return false;
}

static bool stretch(message *m, uint64_t bytes, message *out)
{
    if (bytes > (uint64_t)(m->end - m->at))
        return false;
    *out = (message){m->at, m->at + bytes};
    m->at += bytes;
    return true;
}

/* The next field; false at something that is none. */
static bool next_field(message *m, field *f)
{
    uint64_t tag, length;
    if (!varint(m, &tag) || tag >> 3 == 0 || tag >> 3 > UINT32_MAX)
        return false;
    f->number = (uint32_t)(tag >> 3);
    f->wire = (int)(tag & 7);
    switch (f->wire) {
    case WIRE_VARINT: return varint(m, &f->value);
    case WIRE_64: return stretch(m, 8, &f->bytes);
    case WIRE_32: return stretch(m, 4, &f->bytes);
    case WIRE_BYTES: return varint(m, &length) && stretch(m, length, &f->bytes);
    default: return false; /* groups: not since 2001 */
    }
}

static bool malformed(const walk *w, const char *what)
{
    return status_set(w->st, STATUS_BAD_FILE, "%s: not a sentencepiece model: %s (behind %d pieces)", w->name, what, w->out->pieces);
}

static float float_of(const uint8_t *p)
{
    uint32_t bits = (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static bool read_piece(walk *w, message m)
{
    spm_piece p = {.kind = SPM_NORMAL};
    field f;
    while (m.at < m.end) {
        if (!next_field(&m, &f))
            return malformed(w, "a piece is cut off or damaged");
        if (f.number == 1 && f.wire == WIRE_BYTES) {
            p.text = (const char *)f.bytes.at;
            if (f.bytes.end - f.bytes.at > UINT16_MAX)
                return malformed(w, "a piece is longer than 65535 bytes");
            p.bytes = (uint32_t)(f.bytes.end - f.bytes.at);
        } else if (f.number == 2 && f.wire == WIRE_32) {
            p.score = float_of(f.bytes.at);
        } else if (f.number == 3 && f.wire == WIRE_VARINT) {
            if (f.value < SPM_NORMAL || f.value > SPM_BYTE)
                return malformed(w, "a piece is of an unknown kind");
            p.kind = (spm_kind)f.value;
        }
    }
    if (p.bytes == 0 || memchr(p.text, 0, p.bytes) || u8_check((const uint8_t *)p.text, p.bytes))
        return malformed(w, "a piece is empty or not UTF-8");
    if (!isfinite(p.score))
        return malformed(w, "a piece has no finite score");
    if (w->out->pieces == INT32_MAX / 64)
        return malformed(w, "too many pieces");
    w->out->pieces++;
    w->out->text_bytes += p.bytes;
    return !w->take || w->take(w->ctx, &p);
}

static bool read_trainer(walk *w, message m)
{
    field f;
    while (m.at < m.end) {
        if (!next_field(&m, &f))
            return malformed(w, "its trainer's part is cut off or damaged");
        if (f.number == 3 && f.wire == WIRE_VARINT && f.value != 1)
            return status_set(w->st, STATUS_BAD_FILE, "%s: is no unigram model (model_type %d), which T5 wants", w->name, (int)f.value);
    }
    return true;
}

static bool read_normalizer(walk *w, message m)
{
    field f;
    w->normalizer = true;
    while (m.at < m.end) {
        if (!next_field(&m, &f))
            return malformed(w, "its normalizer is cut off or damaged");
        if (f.number == 2 && f.wire == WIRE_BYTES) {
            w->out->charsmap = f.bytes.at;
            w->out->charsmap_bytes = (size_t)(f.bytes.end - f.bytes.at);
        }
    }
    return true;
}

bool spm_walk(const void *model, size_t bytes, const char *name, spm_take take, void *ctx, spm_facts *out, status *st)
{
    walk w = {.name = name, .take = take, .ctx = ctx, .out = out, .st = st};
    *out = (spm_facts){0};
    message m = {model, bytes ? (const uint8_t *)model + bytes : model};
    field f;
    while (m.at < m.end) {
        bool ok = next_field(&m, &f) || malformed(&w, "cut off or damaged");
        if (ok && f.wire == WIRE_BYTES)
            ok = f.number == 1   ? read_piece(&w, f.bytes)
                 : f.number == 2 ? read_trainer(&w, f.bytes)
                 : f.number == 3 ? read_normalizer(&w, f.bytes)
                                 : true;
        if (!ok)
            return false;
    }
    /* The normalizer stands behind the pieces, so a file cut off between two pieces lacks it. */
    if (out->pieces == 0 || !w.normalizer)
        return malformed(&w, out->pieces ? "it has no normalizer (cut off?)" : "it has no pieces");
    return true;
}
