/* masked.h: the schedule of a masked token model (diffusers' AmusedScheduler). A picture begins as mask tokens; at each step every one of them gets a token, and
 * those that were least certain become mask tokens again, fewer each time.
 *
 *     for (int step = 0; step < m.steps; step++) {
 *         logits of every token -> masked_choose -> picks;
 *         masked_step(&m, step, picks, tokens, count, 1, &generator, scratch);
 *     }
 *
 * Temperature: the noise that is added to the certainty falls from it to 0 in a straight line. 0: always the likeliest token, and nothing is random. */
#ifndef PENSTOCK_MASKED_H
#define PENSTOCK_MASKED_H

#include "base/rng.h"
#include "base/status.h"

typedef struct masked_schedule {
    int steps, mask_id;
    bool linear;            /* the share of masked tokens falls in a straight line; else as a cosine */
    double temperature;
    bool annealed;          /* it falls by a factor a step, the share of steps that are left, as openMUSE's does */
} masked_schedule;

/* config_json: scheduler_config.json, not kept. schedule: "cosine", "linear", or NULL for what it says. */
bool masked_open(masked_schedule *m, const char *config_json, size_t length, const char *schedule, int steps, double temperature, status *st);

typedef struct masked_pick {
    int32_t token;
    float probability;
} masked_pick;

/* One token from n logits, which are overwritten: the likeliest, or, with a generator, a draw as torch.multinomial makes it (of rows one behind the other). */
void masked_choose(float *logits, int n, rng *g, masked_pick *out);
/* tokens: ids in floats, in place; as many picks. start_ratio: the share of tokens that was masked in the beginning, where not all were. scratch: count floats twice. */
void masked_step(const masked_schedule *m, int step, const masked_pick *picks, float *tokens, int count, float start_ratio, rng *g, float *scratch);
/* Masks tokens of a picture at random, as many as are masked after that step (add_noise). */
void masked_noise(const masked_schedule *m, int step, float *tokens, int count, rng *g);
/* A step's draws, for nothing: numbers of a generator that the step would have taken. codes: logits of a token. */
void masked_skip(const masked_schedule *m, int step, int count, int codes, rng *g);

#endif
