/* preview.h: pictures of how far a run is, every --preview steps, for every pipeline; and --taesd, a small decoder in place of the model's.
 *
 *     preview v = {.e = e, .component = "vae", .decoder = &vae, .images, .channels, .height, .width, .passes};
 *     preview_plan(&v);                               // in front of the denoiser: e holds held_bytes more until preview_planned(&v)
 *     preview_open(&v);                               // before the denoiser is
 *     for each call:
 *         predict;
 *         preview_predict(&v, sampler, call, output, latents, done);  // before sampler_step; done: calls behind it
 *         sampler_step;
 *         preview_show(&v, latents, done, last);
 *     preview_close(&v);
 *
 * It shows what the denoiser takes the picture to be at that call, in the end the picture's own latents. Whoever asked for no previews pays nothing. */
#ifndef PENSTOCK_PREVIEW_H
#define PENSTOCK_PREVIEW_H

#include "models/pipe_picture.h"
#include "sampling/sampler.h"

/* ---- --taesd: an AutoencoderTiny from elsewhere ---- */
typedef struct tiny_decoder {
    engine e;                   /* the pipeline's, with a source of its own */
    vae_config config;
} tiny_decoder;

/* The request's, if it names one: does it decode what `own` does? */
bool tiny_decoder_read(tiny_decoder *t, const engine *e, const vae_config *own);
/* Plan the decoding of final pictures by it, or by the model's own decoder; e->held_bytes counts for either. */
bool decoder_plan(vae_stage *v, engine *e, tiny_decoder *t, const vae_config *own, const char *component, int height, int width, int images);

/* ---- previews ---- */
enum { PREVIEW_CHANNELS = 64 };

typedef struct colour_map { float by[PREVIEW_CHANNELS][3], plus[3]; } colour_map; /* a linear function of a place's latents to -1..1 */

typedef struct preview {
    /* set by the pipeline before planning */
    engine *e;                  /* the denoiser's; its source holds the decoder */
    const char *component;      /* the decoder; NULL: the latents are pixels */
    const vae_config *decoder;
    const tiny_decoder *tiny;   /* with --taesd; NULL: this pipeline has no use for one */
    const char *stage;          /* of a cascade: "stage2"; NULL or "": the only one, or the first */
    bool tokens;                /* latents are numbers of codebook entries */
    int images, channels, height, width; /* of the latents; tokens have one channel */
    int passes;                 /* calls to come */
    /* inside */
    enum { PREVIEW_OFF, PREVIEW_PIXELS, PREVIEW_COLOURS, PREVIEW_FIT, PREVIEW_DECODED } way;
    vae_stage show;             /* PREVIEW_DECODED: open beside the denoiser; PREVIEW_FIT: open before it is */
    engine show_engine;
    request show_request;
    uint64_t held_bytes;
    colour_map map;
    float *guess;               /* [images, channels, height, width]: the latents that will be shown */
    bool guessed;
} preview;

bool preview_plan(preview *v);                  /* a refusal for the budget is left in st and is no failure: the denoiser is to be asked, too */
void preview_planned(preview *v);
bool preview_open(preview *v);
bool preview_due(const preview *v, int done);   /* will there be one when so many calls are done? */
void preview_predict(preview *v, const sampler *s, int call, const float *output, const float *latents, int done);
float *preview_guess(preview *v, int done);     /* the same for a pipeline that knows it by itself: what to fill, NULL: nothing is due */
/* last: nothing is left to do. Without a guess at hand latents are shown as they are. */
bool preview_show(preview *v, const float *latents, int done, bool last);
void preview_close(preview *v);

/* The map by which `count` places' latents [count, channels] come nearest to their colours [count, 3]: least squares. False where they do not tell. */
bool colour_map_fit(colour_map *m, const float *latents, const float *colours, int count, int channels);

#endif
