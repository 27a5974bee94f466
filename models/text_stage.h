/* text_stage.h: one text encoder of a pipeline: prompts' tokens in, what the denoiser gets out, with as little reading of the encoder as can be.
 *
 * Every prompt's embedding is sought first in the user's file (--embeddings), then among what this process and the cache on disk hold
 * (embeddings.h); what is left goes through the encoder in one pass. */
#ifndef PENSTOCK_TEXT_STAGE_H
#define PENSTOCK_TEXT_STAGE_H

#include "base/trace.h"
#include "compute/ops.h"
#include "models/prompt_set.h"
#include "models/stage.h"

typedef struct token_list {
    int32_t *ids;       /* all prompts one behind the other */
    int32_t *start;     /* [count + 1]: where each begins */
    int32_t *real;      /* [count]: how many of its tokens are not padding that the encoder hides from itself */
    int *cut;           /* [count]: tokens that each lost to the model's length */
    int count;
} token_list;

/* Room for count prompts of at most `most` tokens each; *l is empty then. */
bool tokens_open(token_list *l, int count, int most, status *st);
void tokens_close(token_list *l);
void tokens_add(token_list *l, int32_t tokens, int cut);          /* ids[start[count]] .. have been written */
void tokens_pad(token_list *l, int32_t upto, int32_t id);         /* the last prompt, where it is shorter */
void tokens_add_arbitrary(token_list *l, int tokens, int vocabulary); /* for timing, and for plans of models without a tokenizer */

typedef struct text_batch {     /* one pass */
    const int32_t *ids;
    segments segments;          /* of the prompts */
    float *output;              /* [tokens of all, width]; NULL in PLAN */
    float *pooled;              /* [prompts, pooled_width] */
} text_batch;
typedef void (*text_forward)(run *r, const void *config, const text_batch *b);

enum { TEXT_WANTED, TEXT_FOUND, TEXT_GIVEN }; /* where a prompt's embedding comes from: the encoder, store or cache, --embeddings */

typedef struct text_stage {
    /* filled by the pipeline */
    const char *component, *name;   /* in the source ("" of a bare one); for reports and tensors' names ("text_encoder") */
    const char *prefix;             /* of tensors' names in traces ("stage3."); NULL: none */
    const name_alias *alias;
    text_forward forward;
    const void *config;
    uint64_t variant;               /* of what else the output depends on: the layer that is taken, ... */
    int width, pooled_width;        /* floats a token; floats a prompt, 0: none */
    bool padded;                    /* the denoiser sees what the encoder makes of the padding: what a mask in --embeddings hides counts too */
    token_list tokens;
    /* results */
    float *output;                  /* [tokens of all, width] */
    float *pooled;                  /* [count, pooled_width], NULL: none */
    int found;                      /* prompts that did not need the encoder */
    /* inside */
    engine *e;
    uint8_t *from;                  /* [count] */
    token_list wanted;              /* those of the pass */
    float *made, *made_pooled;      /* where its outputs go, unless to output and pooled themselves */
    bool planned;
    stage stage;
} text_stage;

/* Prompts that --embeddings gives: how many of the last ones of `count` (0: no such option), their lengths in rows. Before tokenizing.
 * A file without the encoder's tensor or of another width is STATUS_BAD_FILE. */
int text_given(const text_stage *t, const engine *e, int count, int32_t rows[2]);
/* tokens has been filled, with the given prompts' rows counted but no ids written for them. `given`: what text_given returned. */
bool text_stage_plan(text_stage *t, engine *e, int given);
bool text_stage_run(text_stage *t);
void text_stage_close(text_stage *t);   /* tokens included */
/* text.NAME [rows, longest, width], row i being prompt which[i] (NULL: i), and where `mask` mask.NAME [rows, longest]; padded with zeros. text.NAME.pooled
 * [rows, pooled_width] where there is one. */
bool text_stage_trace(const text_stage *t, trace *out, const int *which, int rows, bool mask, status *st);
/* `encode`: runs it, and all prompts with their masks go to the trace. */
bool text_stage_encode(text_stage *t, trace *out);
/* Hash of what the prompts were: tokens, or embeddings that were given. */
uint64_t text_stage_hash(const text_stage *t);

/* Which prompts were cut, into the report. */
void text_stage_report_cut(const text_stage *t, const request *q, const prompt_set *p);

#endif
